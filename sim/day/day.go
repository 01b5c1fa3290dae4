// Package day simulates a whole day of a region that builds and deploys for a large fleet:
// thousands of submissions with peaks, bursts and hotfixes, workers that build and are lost,
// regions that copy artifacts across shared links, machines that fetch and activate them.
//
// What decides is the product's own: raftfsm's state machine with real commands, the lease
// desk, control.Reign with its boards and decisions, all on one virtual clock and one
// seeded queue of events. What takes time is a model: builds, links, machines; its figures
// stand in model.go, each with where it comes from. Consensus is left out: a command is
// committed at once (sim/plane has it fail in every way).
//
// The same configuration gives the same day.
package day

import (
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
)

// Config says which day to play. Zero fields take the values of the day that Starling is
// built for.
type Config struct {
	Seed        uint64
	Deployments int           // submitted; 0: 5,000
	Span        time.Duration // within this; 0: 24 h
	Workers     int           // slots that build; 0: 50
	Apps        int           // 0: 1,000
	Regions     int           // with machines, beside the home; 0: 10
	Machines    int           // of each region; 0: 10,000
	Load        float64       // times the deployments; 0: 1
	Stopped     func() error  // asked now and then whether to give up; nil: never
}

// Bounds of a Config.
const (
	MaxDeployments = 100_000
	MaxWorkers     = 5_000
	MaxApps        = 10_000
	MaxRegions     = 30
	MaxMachines    = 1_000_000
	MaxLoad        = 20
	MaxSpan        = 72 * time.Hour
)

func (c Config) withDefaults() Config {
	def := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.Deployments, 5_000)
	def(&c.Workers, 50)
	def(&c.Apps, 1_000)
	def(&c.Regions, 10)
	def(&c.Machines, 10_000)
	if c.Load == 0 {
		c.Load = 1
	}
	if c.Span == 0 {
		c.Span = 24 * time.Hour
	}
	return c
}

// Check refuses what is out of bounds.
func (c Config) Check() error {
	c = c.withDefaults()
	within := func(name string, n, most int) error {
		if n < 1 || n > most {
			return starling.Invalidf(name, "%d: want 1 to %d", n, most)
		}
		return nil
	}
	for _, err := range []error{
		within("deployments", int(float64(c.Deployments)*c.Load), MaxDeployments), within("workers", c.Workers, MaxWorkers),
		within("apps", c.Apps, MaxApps), within("regions", c.Regions, MaxRegions), within("machines", c.Machines, MaxMachines),
	} {
		if err != nil {
			return err
		}
	}
	if c.Load < 0 || c.Load > MaxLoad {
		return starling.Invalidf("load", "%g: want a positive number, %d at most", c.Load, MaxLoad)
	}
	if c.Span < time.Minute || c.Span > MaxSpan {
		return starling.Invalidf("span", "%s: want 1m to %s", c.Span, MaxSpan)
	}
	return nil
}

// Run plays one day, and on until the last deployment has ended. An error is a broken
// promise, or a configuration out of bounds.
func Run(c Config) (*Result, error) {
	c = c.withDefaults()
	if err := c.Check(); err != nil {
		return nil, err
	}
	began := time.Now()
	w := newWorld(c)
	w.begin()
	for end := c.Span + starling.DefaultDeadline + time.Hour; w.failed == nil; {
		if w.seq%256 == 0 && c.Stopped != nil {
			if err := c.Stopped(); err != nil {
				return nil, err
			}
		}
		do, ok := w.next(end)
		if !ok {
			break
		}
		do()
		if w.now >= c.Span && w.ended == len(w.fates) {
			break
		}
	}
	if w.failed == nil && w.ended < len(w.fates) {
		w.fail(fmt.Errorf("%d of %d deployments have not ended", len(w.fates)-w.ended, len(w.fates)))
	}
	if w.failed != nil {
		return nil, fmt.Errorf("a day with seed %d: %w", c.Seed, w.failed)
	}
	r := w.result()
	r.WallS = time.Since(began).Seconds()
	return r, w.failed
}
