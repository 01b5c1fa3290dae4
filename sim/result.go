package sim

import (
	"slices"
	"time"

	"github.com/starlingdeploy/starling/swarm"
)

// Result is what came out.
type Result struct {
	Machines int
	Bytes    int64 // of the first artifact, less what all machines held
	// Bound is the least possible time for the first artifact alone: its bytes over
	// the slowest downlink of a sound machine, over the caches' uplinks (once for each
	// cell, which shares with no other), over a rack's
	// and a zone's link, or all machines' bytes over all uplinks, whichever is longest
	// (Mundinger, Weber and Weiss, 2008, without its term for the last chunks).
	// Machines that lie, stall or go for good neither need the bytes nor count as
	// capacity; slow ones count as far as their links go, but are not waited for.
	Bound        time.Duration
	Last         time.Duration // when the last sound machine had the first artifact
	Median       time.Duration // of the sound machines
	LastAny      time.Duration // when the last machine that can finish had it
	Unfinished   int           // machines, of those that can finish, without every artifact at the end
	Sound        int           // machines that nothing is wrong with
	OriginCopies float64       // bytes of all artifacts that left the caches for machines, in copies of them
	Wasted       int64         // bytes sent and not needed: cancelled, twice, corrupt, lost
	Steps        int64         // brain steps
	Hash         uint64        // of all events and effects in order
	Accused      []Accused     // machines that others distrust
	PerMachine   []Machine
	Jobs         []JobResult // the first artifact, then those of Config.Also
	Samples      []Sample
	Record       []swarm.Record
}

// Sample is how far all were at one time, in bytes since the beginning.
type Sample struct {
	At                    time.Duration
	FromCaches, FromPeers int64 // that left uplinks
	Held                  int64 // by all machines, of what they lacked at first
}

// sample notes the progress.
func (w *world) sample() {
	s := Sample{At: w.clock.now}
	for i := range w.ports {
		if i < len(w.machines) {
			s.FromPeers += w.ports[i].sent
			s.Held += w.machines[i].fromPeers + w.machines[i].fromCaches
		} else {
			s.FromCaches += w.ports[i].sent
		}
	}
	w.samples = append(w.samples, s)
	w.clock.after(w.cfg.SampleEvery, event{kind: sampling})
}

// JobResult is one artifact's part. Times are counted from the moment at which the
// machines were told of it; only sound machines are looked at.
type JobResult struct {
	Last, Median time.Duration
	// WhenFirst is the mean share of it that machines held when they had the first of
	// their artifacts complete.
	WhenFirst float64
}

// Accused is a machine that others distrust.
type Accused struct {
	Machine int
	By      int           // how many machines
	At      time.Duration // the first of them
}

// Machine is one machine's part.
type Machine struct {
	Name       string
	Fault      string        // "": sound
	Done       time.Duration // with the first artifact; 0: never
	FromPeers  int64         // bytes
	FromCaches int64
	Sent       int64
	Steps      int64
}

func (w *world) result() Result {
	r := Result{
		Machines: len(w.machines), Bytes: w.jobs[0].fresh, Unfinished: w.left,
		Wasted: w.wasted, Hash: w.hash, Record: w.record, Samples: w.samples, Bound: w.bound(),
	}
	for i := range w.machines {
		m, p := &w.machines[i], &w.ports[i]
		r.PerMachine = append(r.PerMachine, Machine{
			Name: m.name, Fault: m.fault.String(), Done: m.done[0], FromPeers: m.fromPeers,
			FromCaches: m.fromCaches, Sent: p.sent, Steps: m.steps,
		})
		r.Steps += m.steps
		r.LastAny = max(r.LastAny, m.done[0])
		if m.fault == sound {
			r.Sound++
		}
		if m.accusers > 0 {
			r.Accused = append(r.Accused, Accused{Machine: i, By: m.accusers, At: m.accusedAt})
		}
	}
	var all int64
	for j := range w.jobs {
		all += w.jobs[j].fresh
		r.Jobs = append(r.Jobs, w.jobResult(j))
	}
	r.Last, r.Median = r.Jobs[0].Last, r.Jobs[0].Median
	if all > 0 {
		r.OriginCopies = float64(w.hauled[toMachines]) / float64(all)
	}
	return r
}

func (w *world) jobResult(j int) JobResult {
	var r JobResult
	var done []time.Duration
	n := 0
	for i := range w.machines {
		m := &w.machines[i]
		if m.fault != sound {
			continue
		}
		if m.done[j] > 0 {
			done = append(done, m.done[j]-w.jobs[j].at)
		}
		if m.whenFirst != nil {
			r.WhenFirst += m.whenFirst[j]
			n++
		}
	}
	r.WhenFirst /= float64(max(n, 1))
	if len(done) > 0 {
		slices.Sort(done)
		r.Last, r.Median = done[len(done)-1], done[len(done)/2]
	}
	return r
}

// capacity returns the uplinks of all machines that count, and how many of them the bound
// waits for.
func (w *world) capacity() (up, takers int64) {
	for i := range w.machines {
		if w.machines[i].fault.finishes() {
			up += w.ports[i].up
			if w.machines[i].fault != slow {
				takers++
			}
		}
	}
	return up, takers
}

// bound is Result.Bound.
func (w *world) bound() time.Duration {
	fresh := w.jobs[0].fresh
	up, takers := w.capacity()
	slowest := w.cfg.DownRate
	cacheUp := w.cfg.CacheRate * int64(w.cfg.Caches)
	b := span(fresh, slowest)
	if cacheUp > 0 {
		b = max(b, span(fresh*int64(w.cfg.Cells), cacheUp))
	}
	for _, rate := range []int64{w.cfg.RackRate, w.cfg.ZoneRate} {
		if rate > 0 {
			b = max(b, span(fresh, rate))
		}
	}
	return max(b, span(fresh*takers, up+cacheUp))
}
