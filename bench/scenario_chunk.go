package bench

import (
	"context"

	"github.com/starlingdeploy/starling/bench/trial"
)

func chunkScenario(env Env) *trial.Scenario {
	var c ChunkConfig
	s := trial.New("chunk", "Cutting and hashing")
	trial.BytesVar(s.Params, &c.Bytes, "bytes", 1<<30, "of content")
	s.Params.Uint64Var(&c.Seed, "seed", 1, "of the content")
	folder(s, &c.Dir, env.Memory)
	s.Metrics = []trial.Metric{
		{Name: "mb_per_s", Unit: "MB/s", Better: trial.Higher, Help: "of wall time, all cores"},
		{Name: "mb_per_cpu_s", Unit: "MB/CPU s", Better: trial.Higher, Help: "of processor time: one core's rate"},
		{Name: "sha256_mb_per_s", Unit: "MB/s", Help: "that hashing alone reaches on one core: a measure of the computer"},
		{Name: "chunks", Unit: "chunks", Exact: true, Help: "that were cut"},
		{Name: "mean_chunk_b", Unit: "bytes", Exact: true, Help: "of a chunk, in the mean"},
	}
	s.Check = c.Check
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		return &trial.Outcome{Result: res}, err
	}
	return s
}
