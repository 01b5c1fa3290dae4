package trial

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/starlingdeploy/starling"
)

// Scenario is something that can be measured. It is good for one configuration: a maker
// makes another.
type Scenario struct {
	Name    string
	Purpose string // one line
	About   string // more, for its help
	Params  *pflag.FlagSet
	Metrics []Metric // the first is what it is about
	Hosts   Hosts
	// Check refuses parameters that cannot be measured, before anything begins; nil: all can.
	Check func() error
	// Limit returns after which time a run is given up, 0 for never; nil: the parameter
	// "duration" says it.
	Limit func() time.Duration
	Run   func(ctx context.Context, tell Progress) (*Outcome, error)
}

// Hosts says what a scenario needs to run in.
type Hosts int

// The needs.
const (
	NoHosts         Hosts = iota // this computer as it is
	HostsIfPossible              // network namespaces, where they can be made
	HostsNeeded                  // cannot run without them
)

// Metric is a figure of a scenario's result that means something.
type Metric struct {
	// Name is the figure's path in the result's JSON, like ack_ms.p99. A * stands for any
	// key; a list of objects is told apart by one of their fields, as in
	// results[clients].cycles_per_s, whose figures are called results[16].cycles_per_s.
	Name   string `json:"name"`
	Unit   string `json:"unit"`
	Better Better `json:"better,omitempty"`
	Exact  bool   `json:"exact,omitempty"` // the same each time with the same parameters and seed
	Help   string `json:"help,omitempty"`
}

// Better says which way a figure is better; none: it is told, and not judged.
type Better string

// The ways.
const (
	Lower  Better = "lower"
	Higher Better = "higher"
)

// Outcome is what one run yields.
type Outcome struct {
	Result   any // one JSON object
	Pictures Pictures
	Notes    []string // for people
	// Broken says that a promise was broken, though the result stands.
	Broken error
}

// Progress is told what is under way and how far it is; total 0: unknown. It may be called
// at any rate by any goroutine. A nil one is told nothing.
type Progress func(what string, done, total float64, unit string)

// Tell tells p, which may be nil.
func (p Progress) Tell(what string, done, total float64, unit string) {
	if p != nil {
		p(what, done, total, unit)
	}
}

// New returns a scenario without parameters.
func New(name, purpose string) *Scenario {
	params := pflag.NewFlagSet(name, pflag.ContinueOnError)
	params.SortFlags = false
	return &Scenario{Name: name, Purpose: purpose, Params: params}
}

// defaultLimit is after which time a run is given up, unless its scenario knows better.
const defaultLimit = 10 * time.Minute

// Registry lists the makers of all scenarios.
type Registry []func() *Scenario

// Names lists the scenarios in their order.
func (r Registry) Names() []string {
	var out []string
	for _, s := range r.All() {
		out = append(out, s.Name)
	}
	return out
}

// All makes each scenario.
func (r Registry) All() []*Scenario {
	var out []*Scenario
	for _, maker := range r {
		out = append(out, complete(maker()))
	}
	return out
}

// New makes the scenario of a name.
func (r Registry) New(name string) (*Scenario, error) {
	all := r.All()
	i := slices.IndexFunc(all, func(s *Scenario) bool { return s.Name == name })
	if i < 0 {
		return nil, starling.Invalidf("scenario", "%.40q is not known; there are %s", name, joined(r.Names()))
	}
	return all[i], nil
}

// complete adds what every scenario has.
func complete(s *Scenario) *Scenario {
	if s.Limit == nil {
		limit := s.Params.Duration("duration", defaultLimit, "give up after this `time`")
		s.Limit = func() time.Duration { return *limit }
	}
	if s.Check == nil {
		s.Check = func() error { return nil }
	}
	return s
}

// Measure runs it once, and gives up when the limit has passed.
func (s *Scenario) Measure(ctx context.Context, tell Progress) (*Outcome, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if limit := s.Limit(); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return s.Run(ctx, tell)
}
