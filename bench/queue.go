package bench

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

// QueueConfig measures job cycles: a client submits a job, leases one, and ends it, and
// begins again at once. Each step is acknowledged durably before the next: committed by
// Raft here (every server syncs its log to disk), by PostgreSQL with its default settings there.
type QueueConfig struct {
	Bin      string        // the starling binary
	Servers  int           // 1, 3 or 5, each a process
	Clients  []int         // numbers of clients to measure with, each 1 to MaxQueueClients
	Duration time.Duration // of each measurement
	Rounds   int           // of each system, in turns; the results are medians
	Dir      string        // where both systems put their data
	Postgres bool          // measure PostgreSQL beside
	Tell     trial.Progress
}

// Bounds of QueueConfig.
const (
	MaxQueueClients = 1024
	maxQueueRounds  = 20
	queueWarmUp     = time.Second // before each measurement
)

// QueueResult is its result.
type QueueResult struct {
	Servers  int            `json:"servers"`
	Rounds   int            `json:"rounds"`
	Computer trial.Computer `json:"computer"`
	Postgres string         `json:"postgres,omitempty"` // version
	Results  []QueuePoint   `json:"results"`

	latencies []latencies // of our cycles, for the report
}

// QueuePoint is the result with one number of clients, medians of the rounds.
type QueuePoint struct {
	Clients int     `json:"clients"`
	Cycles  float64 `json:"cycles_per_s"`
	// PostgresCycles is nil unless PostgreSQL was measured.
	PostgresCycles *float64 `json:"postgres_cycles_per_s,omitempty"`

	CycleMS  Quantile `json:"cycle_ms"`  // of the round whose cycles_per_s is the median
	SubmitMS Quantile `json:"submit_ms"` // its first step
	Failures int64    `json:"failures"`  // its cycles that a change of leader ended
	// Entries is Raft log entries per second; most hold several commands.
	Entries            float64 `json:"raft_entries_per_s"`
	CommandsPerEntry   float64 `json:"commands_per_entry"` // of the clients' commands
	CPUMSPerCycle      float64 `json:"cpu_ms_per_cycle"`   // of all servers
	ClientMSPerCycle   float64 `json:"client_cpu_ms_per_cycle"`
	PostgresCPUMS      float64 `json:"postgres_cpu_ms_per_cycle,omitempty"` // of its server
	PostgresCycleMS    float64 `json:"postgres_cycle_ms_mean,omitempty"`
	CyclesMin          float64 `json:"cycles_per_s_min"` // of the rounds
	CyclesMax          float64 `json:"cycles_per_s_max"`
	PostgresCyclesLow  float64 `json:"postgres_cycles_per_s_min,omitempty"`
	PostgresCyclesHigh float64 `json:"postgres_cycles_per_s_max,omitempty"`
}

// queueSample is one measurement of one system.
type queueSample struct {
	cycles           float64 // per second
	cycleMS          Quantile
	submitMS         Quantile
	meanMS           float64
	failures         int64
	latencies        *hdrhistogram.Histogram // of cycles, in microseconds; nil: not kept
	entries          float64                 // per second
	cpuMS, clientsMS float64                 // per cycle
}

// Check refuses what cannot be measured.
func (c *QueueConfig) Check() error {
	switch {
	case len(c.Clients) == 0:
		return starling.Invalidf("--clients", "is empty: name numbers of clients, like 1,16,64,512")
	case c.Duration < 100*time.Millisecond || c.Duration > 10*time.Minute:
		return starling.Invalidf("--duration", "%s of each measurement is not within 100ms and 10m", c.Duration)
	case c.Rounds < 1 || c.Rounds > maxQueueRounds:
		return starling.Invalidf("--rounds", "%d is not within 1 and %d", c.Rounds, maxQueueRounds)
	}
	for _, n := range c.Clients {
		if n < 1 || n > MaxQueueClients {
			return starling.Invalidf("--clients", "%d is not within 1 and %d", n, MaxQueueClients)
		}
	}
	return nil
}

// Run measures the systems in turns; while one is measured the other does not run.
func (c QueueConfig) Run(ctx context.Context) (*QueueResult, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	res := &QueueResult{Servers: c.Servers, Rounds: c.Rounds, Computer: trial.ThisComputer()}
	var pg *postgres
	if c.Postgres {
		var err error
		if pg, err = findPostgres(ctx); err != nil {
			return nil, err
		}
		res.Postgres = pg.version
	}
	ours, theirs := map[int][]queueSample{}, map[int][]queueSample{}
	for range c.Rounds {
		if err := c.round(ctx, ours); err != nil {
			return nil, err
		}
		if pg == nil {
			continue
		}
		if err := pg.round(ctx, c, theirs); err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
	}
	for _, n := range c.Clients {
		res.Results = append(res.Results, queuePoint(n, ours[n], theirs[n]))
		if s, _, _ := medianSample(ours[n]); s.latencies != nil {
			res.latencies = append(res.latencies, latencies{fmt.Sprintf("cycles of %d clients", n), s.latencies})
		}
	}
	return res, nil
}

// queuePoint takes the sample with the median speed of each system.
func queuePoint(clients int, ours, theirs []queueSample) QueuePoint {
	s, low, high := medianSample(ours)
	p := QueuePoint{
		Clients: clients, Cycles: s.cycles, CyclesMin: low, CyclesMax: high, CycleMS: s.cycleMS, SubmitMS: s.submitMS, Failures: s.failures,
		Entries: s.entries, CPUMSPerCycle: s.cpuMS, ClientMSPerCycle: s.clientsMS,
	}
	if s.entries > 0 {
		p.CommandsPerEntry = stepsPerCycle * s.cycles / s.entries
	}
	if len(theirs) > 0 {
		s, low, high := medianSample(theirs)
		p.PostgresCycles, p.PostgresCyclesLow, p.PostgresCyclesHigh = &s.cycles, low, high
		p.PostgresCPUMS, p.PostgresCycleMS = s.cpuMS, s.meanMS
	}
	return p
}

// stepsPerCycle is how many commands, or transactions, a cycle takes.
const stepsPerCycle = 3

// medianSample returns the sample in the middle, the lower of two, and the extremes.
func medianSample(all []queueSample) (median queueSample, low, high float64) {
	if len(all) == 0 {
		return queueSample{}, 0, 0
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b queueSample) int { return cmp.Compare(a.cycles, b.cycles) })
	return all[(len(all)-1)/2], all[0].cycles, all[len(all)-1].cycles
}

// newLatencies returns a histogram of microseconds up to a minute.
func newLatencies() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// record notes a latency; one beyond the histogram's end counts as the longest.
func record(h *hdrhistogram.Histogram, d time.Duration) error {
	return h.RecordValue(min(max(d.Microseconds(), 1), 60_000_000))
}
