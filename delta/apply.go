package delta

import (
	"encoding/binary"
	"fmt"

	"github.com/starlingdeploy/starling"
)

// Apply makes the target of a patch. It writes into dst's memory, or into new if that
// is too short for size bytes, which is what the target must come to. The patch may be
// hostile: whatever is wrong with it is ErrCorrupt, and what it makes must be judged by
// its digest. dst must not overlap base or patch.
func Apply(dst, base, patch []byte, size int) ([]byte, error) {
	r := reader{patch: patch}
	if n := r.number(); r.bad || n != size || size > MaxTargetBytes {
		return nil, corrupt("it is for a target of another size")
	}
	if cap(dst) < size {
		dst = make([]byte, 0, size)
	}
	out, next := dst[:0], 0
	for len(out) < size {
		n := r.number()
		if r.bad || n > size-len(out) || n > len(r.patch) {
			return nil, corrupt("an insertion is too long")
		}
		out, r.patch = append(out, r.patch[:n]...), r.patch[n:]
		next += n
		if len(out) == size {
			break
		}
		n = r.number()
		from := next + r.signed()
		if r.bad || n == 0 || n > size-len(out) || from < 0 || from > len(base)-n {
			return nil, corrupt("a copy is outside of the base or the target")
		}
		out = append(out, base[from:from+n]...)
		next = from + n
	}
	if len(r.patch) > 0 {
		return nil, corrupt("bytes follow its end")
	}
	return out, nil
}

func corrupt(why string) error { return fmt.Errorf("patch: %w: %s", starling.ErrCorrupt, why) }

// reader reads a patch's numbers, maxNumber at most.
type reader struct {
	patch []byte
	bad   bool
}

func (r *reader) number() int {
	v, n := binary.Uvarint(r.patch)
	if n <= 0 || v > maxNumber {
		r.bad = true
		return 0
	}
	r.patch = r.patch[n:]
	return int(v)
}

func (r *reader) signed() int {
	v, n := binary.Varint(r.patch)
	if n <= 0 || v > maxNumber || v < -maxNumber {
		r.bad = true
		return 0
	}
	r.patch = r.patch[n:]
	return int(v)
}
