package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling/lab"
)

// stand is the hosts of a swarm scenario: the first, never shaped, for what coordinates (servers, a
// tracker), then those that have the content first (caches, a seed), then the machines.
type stand struct {
	lab      *lab.Lab
	seeds    int
	machines int
}

func newStand(seeds, machines int) (*stand, error) {
	l, err := lab.Up(1 + seeds + machines)
	if err != nil {
		return nil, err
	}
	return &stand{lab: l, seeds: seeds, machines: machines}, nil
}

func (s *stand) coordinator() lab.Host    { return s.lab.Hosts()[0] }
func (s *stand) seedHosts() []lab.Host    { return s.lab.Hosts()[1 : 1+s.seeds] }
func (s *stand) machineHosts() []lab.Host { return s.lab.Hosts()[1+s.seeds:] }

// shape bounds the links of seeds and machines; 0: not at all.
func (s *stand) shape(mbit int) error {
	for _, h := range s.lab.Hosts()[1:] {
		if err := s.lab.Shape(h, float64(mbit)); err != nil {
			return err
		}
	}
	return nil
}

// sampleEvery is the resolution of the curves. maxSamples bounds them.
const (
	sampleEvery = 100 * time.Millisecond
	maxSamples  = 36_000
)

// Sample is what the links of seeds and machines, in this order, had carried at a time.
type Sample struct {
	AtS      float64 `json:"at_s"` // since the machines could begin
	InBytes  []int64 `json:"in_bytes"`
	OutBytes []int64 `json:"out_bytes"`
}

// recording is samples in the order of time, AtS since from.
type recording struct {
	from    time.Time
	samples []Sample
}

// watch samples the links while f runs.
func (s *stand) watch(ctx context.Context, f func(context.Context) error) (*recording, error) {
	zero, err := s.lab.Counters()
	if err != nil {
		return nil, err
	}
	rec := &recording{from: time.Now()}
	take := func() error {
		now, err := s.lab.Counters()
		if err != nil || len(rec.samples) == maxSamples {
			return err
		}
		x := Sample{AtS: time.Since(rec.from).Seconds()}
		for i := 1; i < len(now); i++ {
			x.InBytes = append(x.InBytes, now[i].InBytes-zero[i].InBytes)
			x.OutBytes = append(x.OutBytes, now[i].OutBytes-zero[i].OutBytes)
		}
		rec.samples = append(rec.samples, x)
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var sampling error
	for {
		select {
		case err := <-done:
			if err == nil {
				err = sampling
			}
			if err == nil {
				err = take()
			}
			return rec, err
		case <-tick.C:
			if sampling == nil {
				sampling = take()
			}
		}
	}
}

// cut removes what was sampled well after a time.
func (r *recording) cut(end time.Time) {
	at := end.Sub(r.from) + 2*sampleEvery
	r.samples = slices.DeleteFunc(r.samples, func(x Sample) bool { return x.AtS > at.Seconds() })
}

// since returns the samples with another zero, without those before it.
func (r *recording) since(zero time.Time) []Sample {
	var out []Sample
	for _, x := range r.samples {
		if x.AtS -= zero.Sub(r.from).Seconds(); x.AtS >= 0 {
			out = append(out, x)
		}
	}
	return out
}

// wireCopies is what left the seeds, headers included, in units of the content.
func (s *stand) wireCopies(samples []Sample, bytes int64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sum := int64(0)
	for _, n := range samples[len(samples)-1].OutBytes[:s.seeds] {
		sum += n
	}
	return float64(sum) / float64(bytes)
}

func (s *stand) String() string {
	return fmt.Sprintf("network namespaces: seeds %d, machines %d", s.seeds, s.machines)
}
