package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// DeltaResult is how a second artifact, of which a share of the bytes differs from the
// first's in scattered places, reached the machines that held the first.
type DeltaResult struct {
	ChangedBytes int64   `json:"changed_bytes"`
	Places       int     `json:"places"`
	LastS        float64 `json:"last_s"`
	// What the machine that fetched most of the artifact fetched, and what left the caches for
	// machines: of content, and on the wire, headers and all other traffic included.
	MovedBytesMax  int64   `json:"moved_bytes_max"`
	WireBytesMax   int64   `json:"wire_bytes_max"`
	CacheBytes     int64   `json:"cache_bytes"`
	CacheWireBytes int64   `json:"cache_wire_bytes"`
	MovedRatio     float64 `json:"moved_ratio"` // to the changed bytes; by the wire where it is shaped
	CacheRatio     float64 `json:"cache_ratio"`
	CPUS           float64 `json:"cpu_s"`
}

// Changes are extents of 4 to 64 KiB, no two of them in one slot.
const (
	deltaSlotBytes = 128 << 10
	deltaMinBytes  = 4 << 10
	deltaMaxBytes  = 64 << 10
	// MaxDelta is the largest share that can be changed so: an extent has 34 KiB on average.
	MaxDelta = 0.2
)

// changeScattered overwrites a share of a file's bytes, the same for the same seed, and
// returns how many bytes that were, in how many places.
func changeScattered(name string, share float64, seed uint64) (changed int64, places int, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if closing := f.Close(); err == nil {
			err = closing
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	want := int64(share * float64(info.Size()))
	random := rand.New(rand.NewPCG(seed, 0xde17a))
	content := rand.NewChaCha8([32]byte{1: 0xde, 2: byte(seed), 3: byte(seed >> 8)})
	buf := make([]byte, deltaMaxBytes)
	for _, slot := range random.Perm(int(info.Size() / deltaSlotBytes)) {
		if changed >= want {
			break
		}
		n := min(deltaMinBytes+random.Int64N(deltaMaxBytes-deltaMinBytes), want-changed)
		at := int64(slot)*deltaSlotBytes + random.Int64N(deltaSlotBytes-n)
		content.Read(buf[:n]) // never fails
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return 0, 0, fmt.Errorf("change content: %w", err)
		}
		changed, places = changed+n, places+1
	}
	if changed < want {
		return 0, 0, fmt.Errorf("change content: %d bytes are too few to change %d of them", info.Size(), want)
	}
	return changed, places, nil
}

// runDelta deploys the second artifact after first has been deployed.
func (d *distribution) runDelta(ctx context.Context, seed uint64) (*DeltaResult, error) {
	if d.stand != nil {
		if err := d.stand.shape(0); err != nil {
			return nil, err
		}
	}
	res := &DeltaResult{}
	d.cfg.Tell.Tell("pushing the changed artifact", 0, 0, "")
	second, err := pushRandom(ctx, d.api, d.world.Dir, d.cfg.Bytes, seed, func(name string) (err error) {
		res.ChangedBytes, res.Places, err = changeScattered(name, d.cfg.Delta, seed)
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := d.account.usage()
	if err != nil {
		return nil, err
	}
	next := &distribution{cfg: d.cfg, stand: d.stand, world: d.world, api: d.api, account: d.account,
		faults: d.faults, artifact: second.Digest, round: &Round{}}
	if err := next.run(ctx); err != nil {
		return nil, err
	}
	after, err := d.account.usage()
	if err != nil {
		return nil, err
	}
	res.CPUS, res.LastS = after.cpuS-before.cpuS, next.round.LastS
	return res, res.count(next)
}

// count fills in what moved.
func (res *DeltaResult) count(d *distribution) error {
	for _, p := range d.world.WithRole(starling.RoleMachine) {
		moved, err := movedTo(p, d)
		if err != nil {
			return err
		}
		res.MovedBytesMax = max(res.MovedBytesMax, moved)
	}
	res.CacheBytes = int64(d.round.CacheCopies*float64(d.cfg.Bytes) + 0.5)
	per := func(n int64) float64 { return float64(n) / float64(max(res.ChangedBytes, 1)) }
	res.MovedRatio, res.CacheRatio = per(res.MovedBytesMax), per(res.CacheBytes)
	if n := len(d.round.Samples); n > 0 {
		last := d.round.Samples[n-1]
		for i := range last.InBytes {
			if i < d.stand.seeds {
				res.CacheWireBytes += last.OutBytes[i]
			} else {
				res.WireBytesMax = max(res.WireBytesMax, last.InBytes[i])
			}
		}
		res.MovedRatio, res.CacheRatio = per(res.WireBytesMax), per(res.CacheWireBytes)
	}
	return nil
}

// movedTo returns how much of the content a machine fetched.
func movedTo(p *world.Proc, d *distribution) (int64, error) {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return 0, err
	}
	cache, peer, ok := loggedBytes(b, d.began)
	if !ok {
		return 0, fmt.Errorf("%s does not say what it fetched", p.Name)
	}
	return cache + peer, nil
}
