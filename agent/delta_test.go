package agent

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/starlingdeploy/starling"
)

// deltaBytes is the size of the artifacts of TestDeltas; STARLING_DELTA_BYTES sets another.
func deltaBytes(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("STARLING_DELTA_BYTES"))
	switch {
	case os.Getenv("STARLING_DELTA_BYTES") == "":
		return 60 << 20
	case err != nil:
		t.Fatal(err)
	}
	return n
}

// overwrite puts new bytes over n pieces of b, at places spread evenly with jitter.
func overwrite(b []byte, n, piece int) {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(piece)))
	for i := range n {
		at := i*(len(b)/n) + rng.IntN(len(b)/n-piece+1)
		copy(b[at:], noise(uint64(1_000_000+i), piece))
	}
}

// TestDeltas is the promise about what a new release moves: a fleet with a release of
// one large file and many small ones gets others that differ in several ways.
func TestDeltas(t *testing.T) {
	t.Parallel()
	size := deltaBytes(t)
	r := newRegion(t)
	r.startCache()
	var machines []*machine
	for i := range 4 {
		machines = append(machines, r.machine(fmt.Sprintf("m%d", i+1)))
	}
	big := noise(3, size*9/10)
	files := map[string][]byte{"big": big}
	for i := range 20 {
		files[fmt.Sprintf("small/%02d", i)] = noise(uint64(100+i), size/200)
	}
	seq := uint64(1)
	r.leader.setGoal(goal(seq, r.push(files)))
	for _, m := range machines {
		m.await(seq, starling.MachineHealthy)
	}
	for _, step := range []struct {
		name   string
		change func()
		most   int // bytes moved to each machine, and out of the cache
	}{
		{"5 % in 50 pieces", func() { overwrite(big, 50, size/1000) }, size / 20 * 13 / 10},
		{"5 % in pieces of 4 KiB", func() { overwrite(big, size/20>>12, 4<<10) }, size / 20 * 13 / 10},
		{"an insertion at the front", func() { big = slices.Concat(noise(8, 1000), big) }, size / 100},
		{"a deletion in the middle", func() { big = slices.Delete(bytes.Clone(big), size/2, size/2+100_000) }, size / 100},
		{"a file renamed", func() { files["tiny/00"] = files["small/00"]; delete(files, "small/00") }, size / 100},
	} {
		before := r.bytesOut()
		step.change()
		files["big"] = big
		seq++
		r.leader.setGoal(goal(seq, r.push(files)))
		for _, m := range machines {
			rep := m.await(seq, starling.MachineHealthy)
			checkTree(t, m, files)
			if moved := rep.Bytes.CacheOut + rep.Bytes.Peer; moved > int64(step.most) {
				t.Errorf("%s: %d bytes moved to %s, want %d at most", step.name, moved, m.node.Name, step.most)
			}
			if b := rep.Bytes; b.Local+b.CacheOut+b.Peer < b.Artifact {
				t.Errorf("%s: %s counts %+v", step.name, m.node.Name, b)
			}
			t.Logf("%s: %s: %+v", step.name, m.node.Name, rep.Bytes)
		}
		out := r.bytesOut() - before
		if out > int64(step.most) {
			t.Errorf("%s: %d bytes left the cache, want %d at most", step.name, out, step.most)
		}
		t.Logf("%s: %.2f %% of the artifact left the cache", step.name, 100*float64(out)/float64(size))
	}
}
