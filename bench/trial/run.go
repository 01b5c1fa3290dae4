package trial

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// Bounds of a plan.
const (
	MaxRepeats = 100
	MaxRuns    = 50
	maxSteps   = 100 // that a repeat remembers
)

// Plan is what to measure, and how often.
type Plan struct {
	Runs       []*Planned
	Interleave bool
	Seed       uint64 // of the order
	Text       string // of the file that it comes from
}

// Planned is one scenario with its parameters set.
type Planned struct {
	*Scenario
	Label   string
	Repeat  int // 1 to MaxRepeats
	Warmups int // 0 to MaxRepeats
}

// Watch is told how a plan goes on. Its functions are called by one goroutine, but for Tell.
type Watch struct {
	Begin func(what string) // of a measurement
	Tell  Progress
	End   func(*Repeat, []Summary) // of one that counts, with its run's summary so far
}

// Once plans one measurement of a scenario.
func Once(s *Scenario) *Plan {
	return &Plan{Runs: []*Planned{{Scenario: s, Repeat: 1}}}
}

// Check refuses parameters that cannot be measured, of all runs.
func (p *Plan) Check() error {
	for _, r := range p.Runs {
		if err := r.Check(); err != nil {
			return fmt.Errorf("%s: %w", r.title(), err)
		}
	}
	return nil
}

// Hosts says what the neediest run needs.
func (p *Plan) Hosts() Hosts {
	need := NoHosts
	for _, r := range p.Runs {
		need = max(need, r.Hosts)
	}
	return need
}

func (p *Planned) title() string { return (&Run{Scenario: p.Name, Label: p.Label}).Title() }

// measurement is one entry of the order.
type measurement struct {
	run    int
	number int // of the run's, from 0
	warmup bool
}

// order lists the measurements: one run after the other, or in turns, each turn shuffled,
// so that what changes with time befalls all runs alike.
func (p *Plan) order() []measurement {
	random := rand.New(rand.NewPCG(p.Seed, 0x7e57))
	var out []measurement
	turns := func(warmup bool, times func(*Planned) int) {
		for number := range MaxRepeats {
			for _, i := range random.Perm(len(p.Runs)) {
				if number < times(p.Runs[i]) {
					out = append(out, measurement{i, number, warmup})
				}
			}
		}
	}
	if p.Interleave {
		turns(true, func(r *Planned) int { return r.Warmups })
		turns(false, func(r *Planned) int { return r.Repeat })
		return out
	}
	for i, r := range p.Runs {
		for n := range r.Warmups {
			out = append(out, measurement{i, n, true})
		}
		for n := range r.Repeat {
			out = append(out, measurement{i, n, false})
		}
	}
	return out
}

// Measure measures a plan. With an error, the file that it returns holds what was measured until
// then; about gives the file's command and version.
func (p *Plan) Measure(ctx context.Context, about File, w Watch) (*File, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	f := &about
	f.Schema, f.At, f.Computer = Schema, time.Now().UTC().Truncate(time.Second), ThisComputer()
	f.Interleaved, f.Seed, f.Plan = p.Interleave, p.Seed, p.Text
	for _, r := range p.Runs {
		f.Runs = append(f.Runs, &Run{Scenario: r.Name, Label: r.Label, Parameters: parameters(r.Params), Warmups: r.Warmups, Repeats: []*Repeat{}})
	}
	defer func() {
		for _, r := range f.Runs {
			r.prune()
		}
	}()
	order, turn := p.order(), 0
	for i, m := range order {
		planned, run := p.Runs[m.run], f.Runs[m.run]
		what := fmt.Sprintf("%d of %d: %s, repeat %d", i+1, len(order), planned.title(), m.number+1)
		if m.warmup {
			what = fmt.Sprintf("%d of %d: %s, warm-up %d", i+1, len(order), planned.title(), m.number+1)
		} else if len(order) == 1 {
			what = planned.title()
		}
		w.Begin(what)
		repeat, err := planned.measure(ctx, run.Parameters["seed"], m.number, w.Tell)
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
			f.Stopped = err.Error()
			return f, err
		}
		if m.warmup {
			continue
		}
		turn++
		repeat.Turn = turn
		run.Repeats = append(run.Repeats, repeat)
		run.sumUp()
		w.End(repeat, run.Summary)
	}
	return f, nil
}

// measure takes one measurement. Repeats have seeds of their own, the same in all runs.
func (p *Planned) measure(ctx context.Context, seed string, number int, tell Progress) (*Repeat, error) {
	debug.FreeOSMemory() // what the one before has left
	r := &Repeat{At: time.Now().UTC()}
	if first, err := strconv.ParseUint(seed, 10, 64); err == nil {
		r.Seed = strconv.FormatUint(first+uint64(number), 10)
		if err := p.Set("seed", r.Seed); err != nil {
			return nil, err
		}
	}
	steps := &steps{began: time.Now()}
	out, err := p.Scenario.Measure(ctx, func(what string, done, total float64, unit string) {
		steps.told(what)
		tell.Tell(what, done, total, unit)
	})
	if err != nil {
		return nil, err
	}
	r.WallS = time.Since(steps.began).Seconds()
	if r.Result, err = json.Marshal(out.Result); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	if r.Figures, err = figures(p.Metrics, r.Result); err != nil {
		return nil, err
	}
	r.Steps, r.Notes, r.Pictures = steps.spans(r.WallS), out.Notes, &out.Pictures
	if out.Broken != nil {
		r.Broken = out.Broken.Error()
	}
	return r, nil
}

// steps remembers what was under way when.
type steps struct {
	began time.Time
	mu    sync.Mutex
	all   []Span
}

// told notes a step, which lasts until another is told of.
func (s *steps) told(what string) {
	now := time.Since(s.began).Seconds()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.all)
	if n > 0 && s.all[n-1].Name == what || n == maxSteps {
		return
	}
	if n > 0 {
		s.all[n-1].ToS = now
	}
	s.all = append(s.all, Span{Name: what, FromS: now})
}

// spans returns the steps, the last until the end.
func (s *steps) spans(end float64) []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n > 0 {
		s.all[n-1].ToS = end
	}
	return s.all
}
