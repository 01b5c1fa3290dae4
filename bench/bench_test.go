package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestChunk(t *testing.T) {
	res, err := ChunkConfig{Bytes: 8 << 20, Seed: 1, Dir: t.TempDir()}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := ChunkConfig{Bytes: 8 << 20, Seed: 1, Dir: t.TempDir()}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if res.Chunks < 2 || res.Chunks != again.Chunks || res.MBPerS <= 0 || res.SHA256MBPerS <= 0 {
		t.Errorf("%+v, then %+v", res, again)
	}
}

// The names that other programs rely on.
func TestResultNames(t *testing.T) {
	for _, c := range []struct {
		result any
		names  []string
	}{
		{SubmitResult{}, []string{"ack_ms"}},
		{ChunkResult{}, []string{"mb_per_s"}},
		{SwarmResult{}, []string{"machines", "bytes", "rate_mbit", "last_s", "median_s", "cpu_s_per_gb", "cache_copies", "rss_mb_max"}},
		{QueueResult{}, []string{"results"}},
		{QueuePoint{PostgresCycles: new(float64)}, []string{"clients", "cycles_per_s", "postgres_cycles_per_s"}},
	} {
		b, err := json.Marshal(c.result)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(b, &fields); err != nil {
			t.Fatal(err)
		}
		for _, name := range c.names {
			if _, ok := fields[name]; !ok {
				t.Errorf("%T has no %s", c.result, name)
			}
		}
	}
}

func TestProcFiles(t *testing.T) {
	stat := filepath.Join(t.TempDir(), "stat")
	line := "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 50 25 25 20 0 9 0 7"
	if err := os.WriteFile(stat, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := cpuSeconds(stat); err != nil || s != 2 {
		t.Errorf("%v s, %v", s, err)
	}
	if now, own, high, err := residentMB("/proc/self/status"); err != nil || now <= 0 || own <= 0 || own > now || high < now {
		t.Errorf("resident %v MB, at most %v MB, %v", now, high, err)
	}
}
