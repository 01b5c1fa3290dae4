package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// TestTenGigabytes deploys 10 GB, as one file and as 50,000, from a cache to two
// machines that serve each other, all real processes over QUIC, and looks at the most
// memory and the disk that each ever used. It needs 30 GB of disk and some minutes:
//
//	STARLING_BIG=$PWD/bin/starling go test ./bench -run TenGigabytes -timeout 60m -v
func TestTenGigabytes(t *testing.T) {
	bin := os.Getenv("STARLING_BIG")
	if bin == "" {
		t.Skip("takes minutes and 30 GB of disk; STARLING_BIG is the starling binary to run it with")
	}
	for _, files := range []int{1, 50_000} {
		t.Run(fmt.Sprintf("%d files", files), func(t *testing.T) { deployBig(t, bin, files, 10_000_000_000) })
	}
}

const (
	bigMachines     = 2
	maxRSSMB        = 200
	bigChunkBytes   = 1<<20 - 777 // chunks begin anywhere in a block
	bigPushInFlight = 4
)

func deployBig(t *testing.T, bin string, files int, total int64) {
	size := world.Size{Regions: 1, Servers: 1, Caches: 1, Machines: bigMachines}
	err := inWorld(t.Context(), bin, "", size, nil, func(w *world.World, api *client.Client) error {
		began := time.Now()
		record, err := pushPattern(t.Context(), api, files, total)
		if err != nil {
			return err
		}
		t.Logf("pushed in %.0f s", time.Since(began).Seconds())
		res := &Round{}
		d := &distribution{cfg: SwarmConfig{Bin: bin, Machines: bigMachines, Bytes: total}, world: w, api: api, artifact: record.Digest, round: res}
		if err := d.run(t.Context()); err != nil {
			return err
		}
		t.Logf("deployed: last machine after %.0f s, %.2f CPU-s/GB, %.2f copies left the cache", res.LastS, res.CPUSPerGB, res.CacheCopies)
		return checkFootprint(t, w, total)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pushPattern stores an artifact of equal files whose chunks are made as they are pushed.
func pushPattern(ctx context.Context, api *client.Client, files int, total int64) (*starling.Artifact, error) {
	m := &starling.Manifest{Version: starling.ManifestVersion, Chunker: artifact.ChunkerName}
	for i := range files {
		m.Files = append(m.Files, starling.File{Path: fmt.Sprintf("d%03d/file-%05d.bin", i/100, i), Kind: starling.KindFile, Mode: 0o644, Size: total / int64(files)})
	}
	m.Chunks = make([]starling.Chunk, (total+bigChunkBytes-1)/bigChunkBytes)
	noise := make([]byte, bigChunkBytes)
	rng := rand.NewChaCha8([32]byte{7})
	if _, err := rng.Read(noise); err != nil {
		return nil, err
	}
	g, pushing := errgroup.WithContext(ctx)
	next := make(chan int, len(m.Chunks))
	for i := range m.Chunks {
		next <- i
	}
	close(next)
	for range bigPushInFlight {
		buf := append([]byte(nil), noise...)
		g.Go(func() error {
			for i := range next {
				binary.BigEndian.PutUint64(buf, uint64(i))
				data := buf[:min(total-int64(i)*bigChunkBytes, bigChunkBytes)]
				m.Chunks[i] = starling.Chunk{Digest: starling.DigestOf(data), Size: len(data)}
				if err := api.PutChunk(pushing, m.Chunks[i].Digest, data); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return api.RegisterArtifact(ctx, "", encoded)
}

func checkFootprint(t *testing.T, w *world.World, total int64) error {
	for _, p := range w.Procs {
		proc := fmt.Sprintf("/proc/%d", p.PID())
		_, _, high, err := residentMB(filepath.Join(proc, "status"))
		if err != nil {
			return err
		}
		fds, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			return err
		}
		disk, err := diskBytes(filepath.Join(w.Dir, p.Name))
		if err != nil {
			return err
		}
		t.Logf("%s: at most %.0f MB resident, %.2f GB on disk, %d descriptors, %s", p.Name, high, float64(disk)/1e9, len(fds), ioOf(proc))
		if p.Role != starling.RoleMachine && p.Role != starling.RoleCache {
			continue
		}
		if high >= maxRSSMB {
			t.Errorf("%s used %.0f MB of memory", p.Name, high)
		}
		if disk > total+total/10 {
			t.Errorf("%s keeps %d bytes on disk", p.Name, disk)
		}
	}
	return nil
}

func ioOf(proc string) string {
	b, err := os.ReadFile(filepath.Join(proc, "io"))
	if err != nil {
		return err.Error()
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "read_bytes") || strings.HasPrefix(line, "write_bytes") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, ", ")
}

// diskBytes is what the files below dir take.
func diskBytes(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
