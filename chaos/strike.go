package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/faults"
	"github.com/starlingdeploy/starling/lab"
)

// Bounds of what faults do.
const (
	minHold  = 1 * time.Second // how long a fault lasts
	maxHold  = 5 * time.Second
	minDelay = 50 * time.Millisecond // of a slow sync
	maxDelay = 2 * time.Second
)

// clockSteps are how far a wall clock is stepped.
var clockSteps = []time.Duration{
	time.Hour, -time.Hour, 5 * time.Minute, -5 * time.Minute, 20 * time.Second, -20 * time.Second,
}

// Strike is one fault as it happened.
type Strike struct {
	Kind     Kind     `json:"kind"`
	Target   Target   `json:"target"`
	Boundary Boundary `json:"boundary"`
	Victim   string   `json:"victim"`
	Detail   string   `json:"detail,omitempty"` // how far the clock was stepped, how long a sync took
	AtS      float64  `json:"at_s"`             // since the first submission
	HeldS    float64  `json:"held_s"`

	region     string
	began, end time.Time
}

// blow is a fault that has been planned.
type blow struct {
	Strike
	victims []*actor // none: the whole region is cut off
	hold    time.Duration
	step    time.Duration
	delay   time.Duration
	from    *actor // Clock: the leader that is to hand over meanwhile; nil: none
}

// plan draws the particulars of a cell's fault.
func plan(c Cell, region string, victims []*actor, random *rand.Rand) *blow {
	b := &blow{Strike: Strike{Kind: c.Kind, Target: c.Target, Boundary: c.Boundary, Victim: region, region: region}, victims: victims}
	if len(victims) == 1 {
		b.Victim = victims[0].Name
	}
	b.hold = minHold + time.Duration(random.Int64N(int64(maxHold-minHold)))
	switch c.Kind {
	case Clock:
		b.step = clockSteps[random.IntN(len(clockSteps))]
		b.Detail = b.step.String()
	case SlowSync:
		b.delay = minDelay + time.Duration(random.Int64N(int64(maxDelay-minDelay)))
		b.Detail = b.delay.Round(time.Millisecond).String()
	}
	return b
}

// strike does what is planned.
func (s *stage) strike(b *blow) error {
	if len(b.victims) == 0 {
		return s.links(b.inside(s), b.outside(s), b.Kind, 1)
	}
	var errs []error
	for _, a := range b.victims {
		errs = append(errs, s.strikeOne(b, a))
	}
	if b.from != nil {
		s.crown(b.from)
	}
	return errors.Join(errs...)
}

func (s *stage) strikeOne(b *blow, a *actor) error {
	switch b.Kind {
	case Kill:
		return s.kill(a)
	case Stop:
		return a.signal(unix.SIGSTOP)
	case Isolate, Mute, Deafen:
		return s.links([]lab.Host{a.host}, b.outside(s), b.Kind, 1)
	case DiskFull:
		return fill(a.disk)
	case Clock:
		return s.step(a, b.step)
	case SlowSync:
		s.syncs.Delay(a.host.Name, b.delay)
	case SyncError:
		s.syncs.Fail(a.host.Name)
	}
	return nil
}

// heal undoes strike.
func (s *stage) heal(b *blow) error {
	if len(b.victims) == 0 {
		return s.links(b.inside(s), b.outside(s), b.Kind, -1)
	}
	var errs []error
	for _, a := range b.victims {
		errs = append(errs, s.healOne(b, a))
	}
	return errors.Join(errs...)
}

func (s *stage) healOne(b *blow, a *actor) error {
	switch b.Kind {
	case Kill:
		return s.start(a)
	case Stop:
		return a.signal(unix.SIGCONT)
	case Isolate, Mute, Deafen:
		return s.links([]lab.Host{a.host}, b.outside(s), b.Kind, -1)
	case DiskFull:
		return remount(a.disk, diskBytes)
	case Clock:
		return s.step(a, 0)
	case SlowSync, SyncError:
		s.syncs.Delay(a.host.Name, 0)
	}
	return nil
}

// crown asks a leader to hand the lead over, to whom it likes. That it may fail is no matter.
func (s *stage) crown(leader *actor) {
	ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
	defer cancel()
	if err := leader.api.TransferLeadership(ctx); err != nil {
		s.log.Info("the lead was not handed over", "by", leader.Name, "err", err)
	}
}

// inside and outside are the two sides of a cut.
func (b *blow) inside(s *stage) []lab.Host {
	return hostsOf(s.actors, func(a *actor) bool { return a.Region == b.region })
}

func (b *blow) outside(s *stage) []lab.Host {
	if len(b.victims) == 0 {
		return hostsOf(s.actors, func(a *actor) bool { return a.Region != b.region })
	}
	return hostsOf(s.actors, func(a *actor) bool { return !slices.Contains(b.victims, a) })
}

func hostsOf(actors []*actor, which func(*actor) bool) []lab.Host {
	var out []lab.Host
	for _, a := range actors {
		if which(a) {
			out = append(out, a.host)
		}
	}
	return out
}

// links cuts (by 1) or mends (by -1) the directions that a kind is about. A link that two
// faults have cut is whole again when both are over.
func (s *stage) links(inside, outside []lab.Host, k Kind, by int) error {
	var errs []error
	if k != Deafen {
		for _, h := range inside {
			errs = append(errs, s.link(h, outside, by))
		}
	}
	if k != Mute {
		for _, h := range outside {
			errs = append(errs, s.link(h, inside, by))
		}
	}
	return errors.Join(errs...)
}

func (s *stage) link(from lab.Host, to []lab.Host, by int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var changed []lab.Host
	for _, h := range to {
		pair := [2]string{from.Name, h.Name}
		before := s.cuts[pair]
		s.cuts[pair] += by
		if h != from && (before == 0 || s.cuts[pair] == 0) {
			changed = append(changed, h)
		}
	}
	switch {
	case len(changed) == 0:
		return nil
	case by > 0:
		return s.lab.Cut(from, changed...)
	default:
		return s.lab.Mend(from, changed...)
	}
}

// step sets how far the wall clock of a process's present run is off.
func (s *stage) step(a *actor, by time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.down || a.ended() {
		return nil // the next run has the right clock
	}
	if a.clock == nil {
		if by == 0 {
			return nil
		}
		clock, err := faults.TakeClock(a.PID())
		if err != nil {
			return err
		}
		a.clock = clock
	}
	return a.clock.Step(by)
}

// choose returns those in a region whom a target means, none for the region itself. leader
// is the name of the region's leader as it was last seen.
func (s *stage) choose(t Target, region, leader string, random *rand.Rand) ([]*actor, error) {
	servers := s.with(region, starling.RoleServer)
	var all []*actor
	switch t {
	case Region:
		return nil, nil
	case Servers:
		return servers, nil
	case Leader, Follower:
		all = slices.DeleteFunc(servers, func(a *actor) bool { return (a.Name == leader) != (t == Leader) })
	case Worker, Cache, Machine:
		all = s.with(region, starling.Role(t))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("region %s has no %s now", region, t)
	}
	i := random.IntN(len(all))
	return all[i : i+1], nil
}
