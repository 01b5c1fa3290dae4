package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/bench/trial"
	"golang.org/x/sys/unix"
)

// ChunkConfig measures cutting and hashing, without storing.
type ChunkConfig struct {
	Bytes int64  // of random content
	Seed  uint64 // of the content
	Dir   string // where the content is written first; a memory file system is best
	Tell  trial.Progress
}

// ChunkResult is its result. Rates are in 10^6 bytes per second.
type ChunkResult struct {
	Bytes      int64   `json:"bytes"`
	Chunks     int     `json:"chunks"`
	MBPerS     float64 `json:"mb_per_s"`     // of wall time, all cores
	MBPerCPUS  float64 `json:"mb_per_cpu_s"` // of processor time: one core's rate
	MeanChunkB int64   `json:"mean_chunk_b"` // bytes
	WallS      float64 `json:"wall_s"`
	CPUS       float64 `json:"cpu_s"`
	Cores      int     `json:"cores"`
	// SHA256MBPerS is what hashing alone reaches on one core in the same run: the
	// bound, and a measure of the machine.
	SHA256MBPerS float64 `json:"sha256_mb_per_s"`
}

// maxChunkBenchBytes bounds the content, which lies in memory as a rule.
const maxChunkBenchBytes = 64 << 30

// Check refuses what cannot be measured.
func (c *ChunkConfig) Check() error {
	if c.Bytes < 1 || c.Bytes > maxChunkBenchBytes {
		return starling.Invalidf("--bytes", "%d is not within 1 and %d", c.Bytes, int64(maxChunkBenchBytes))
	}
	return nil
}

// Run writes the content once and cuts it once.
func (c ChunkConfig) Run(ctx context.Context) (*ChunkResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Dir, "starling-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c.Tell.Tell("writing the content", 0, 0, "")
	if err := writeRandom(filepath.Join(dir, "content"), c.Bytes, c.Seed); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	cpu, began := selfCPU(), time.Now()
	var cut atomic.Int64 // pieces come from several goroutines
	m, err := artifact.Pack(ctx, root, func(p artifact.Piece) error {
		c.Tell.Tell("cutting", float64(cut.Add(int64(len(p.Data))))/1e6, float64(c.Bytes)/1e6, "MB")
		return nil
	})
	if err != nil {
		return nil, err
	}
	wall, used := time.Since(began).Seconds(), selfCPU()-cpu
	return &ChunkResult{
		Bytes: c.Bytes, Chunks: len(m.Chunks),
		MBPerS: float64(c.Bytes) / 1e6 / wall, MBPerCPUS: float64(c.Bytes) / 1e6 / used,
		MeanChunkB: c.Bytes / int64(max(len(m.Chunks), 1)),
		WallS:      wall, CPUS: used, Cores: runtime.GOMAXPROCS(0),
		SHA256MBPerS: hashRate(),
	}, nil
}

// hashRate hashes for about half a second.
func hashRate() float64 {
	const piece, pieces = 1 << 20, 512
	buf := make([]byte, piece)
	cpu := selfCPU()
	for range pieces {
		buf[0] ^= sha256.Sum256(buf)[0]
	}
	return piece * pieces / 1e6 / (selfCPU() - cpu)
}

// writeRandom writes incompressible content, the same for the same seed.
func writeRandom(name string, n int64, seed uint64) error {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.NewChaCha8(key), n); err != nil {
		f.Close()
		return fmt.Errorf("content: %w", err)
	}
	return f.Close()
}

// selfCPU returns the processor seconds of this process so far.
func selfCPU() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic("bench: getrusage: " + err.Error()) // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
