package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/starlingdeploy/starling/bench/trial"
)

func submitScenario(env Env) *trial.Scenario {
	c := SubmitConfig{Pause: 50 * time.Millisecond}
	s := trial.New("submit", "Time to an acknowledged submission")
	s.Params.IntVar(&c.Servers, "servers", 3, "servers: 1, 3 or 5, each a process, fsync on")
	s.Params.IntVar(&c.Count, "count", 100, "submissions, one after the other")
	starlingBinary(s, &c.Bin, env)
	s.Metrics = append(quantiles("ack_ms", "from a submission to the leader's answer"),
		quantiles("ack_follower_ms", "the same by way of a follower")...)
	s.Metrics = append(s.Metrics, trial.Metric{Name: "idle_rss_mb.*", Unit: "MB", Better: trial.Lower, Help: "of the largest process of a role, idle"})
	s.Check = c.Check
	s.Run = func(ctx context.Context, tell trial.Progress) (*trial.Outcome, error) {
		c.Tell = tell
		res, err := c.Run(ctx)
		if err != nil {
			return nil, err
		}
		out := &trial.Outcome{Result: res}
		for _, l := range res.latencies {
			out.Pictures.Histograms = append(out.Pictures.Histograms, latencyHistogram(l.title, l.h))
		}
		return out, nil
	}
	return s
}

// quantiles lists the metrics of a Quantile in milliseconds.
func quantiles(name, help string) []trial.Metric {
	return []trial.Metric{
		{Name: name + ".p50", Unit: "ms", Better: trial.Lower, Help: help + ", median"},
		{Name: name + ".p99", Unit: "ms", Better: trial.Lower, Help: help + ", 99th percentile"},
		{Name: name + ".max", Unit: "ms", Help: help + ", longest"},
	}
}

// latencyHistogram draws latencies in microseconds, in bins that each grow by a quarter.
func latencyHistogram(title string, h *hdrhistogram.Histogram) trial.Histogram {
	out := trial.Histogram{Title: title, Unit: "ms", Log: true, Bins: []trial.Bin{}}
	const grow = 1.25
	for _, b := range h.Distribution() {
		ms := float64(b.From+b.To) / 2000
		for b.Count > 0 && (len(out.Bins) == 0 || ms >= out.Bins[len(out.Bins)-1].To) {
			from := ms
			if n := len(out.Bins); n > 0 {
				from = out.Bins[n-1].To
			}
			out.Bins = append(out.Bins, trial.Bin{From: from, To: from * grow})
		}
		if b.Count > 0 {
			out.Bins[len(out.Bins)-1].Count += b.Count
		}
	}
	for _, q := range []float64{50, 99} {
		at := float64(h.ValueAtQuantile(q)) / 1000
		out.Marks = append(out.Marks, trial.Mark{At: at, Label: fmt.Sprintf("p%.0f", q), Title: fmt.Sprintf("%.2f ms", at)})
	}
	return out
}
