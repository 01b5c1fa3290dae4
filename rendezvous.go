package starling

import (
	"bytes"
	"crypto/sha256"
	"slices"
)

// Rendezvous returns the n names that are responsible for key, best first, by
// highest random weight (Thaler and Ravishankar, 1998): adding or losing one name
// moves only its own share. It returns all names if there are n or fewer.
func Rendezvous(key Digest, names []string, n int) []string {
	type weighed struct {
		name   string
		weight [sha256.Size]byte
	}
	all := make([]weighed, len(names))
	buf := make([]byte, 0, len(key)+64)
	for i, name := range names {
		buf = append(append(buf[:0], key[:]...), name...)
		all[i] = weighed{name, sha256.Sum256(buf)}
	}
	slices.SortFunc(all, func(a, b weighed) int {
		if c := bytes.Compare(b.weight[:], a.weight[:]); c != 0 {
			return c
		}
		return bytes.Compare([]byte(a.name), []byte(b.name))
	})
	out := make([]string, 0, min(n, len(all)))
	for _, w := range all[:min(n, len(all))] {
		out = append(out, w.name)
	}
	return out
}
