package day

import (
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// Result is how a day went. But for WallS it is the same for the same Config.
type Result struct {
	Seed        uint64  `json:"seed"`
	Load        float64 `json:"load"`
	Workers     int     `json:"workers"`
	Apps        int     `json:"apps"`
	Regions     int     `json:"regions"`
	Machines    int     `json:"machines"` // of all regions
	Deployments int     `json:"deployments"`
	Succeeded   int     `json:"succeeded"`
	BuildFailed int     `json:"build_failed"` // the command, or every worker it had
	Reverted    int     `json:"reverted"`     // machines were not healthy with it
	Late        int     `json:"late"`         // its deadline of 30 min ended it
	// InTime is the share that came to its own end, good or bad, within 30 minutes of
	// submission.
	InTime float64        `json:"in_time"`
	LateIn map[string]int `json:"late_in"` // what the late ones waited for when their time was over

	Total   Spread            `json:"total_s"`
	Phases  map[string]Spread `json:"phases_s"` // of those that passed them
	Hotfix  Hotfixes          `json:"hotfix"`
	Peak    int               `json:"peak_hour"` // submissions in the busiest hour
	Longest int               `json:"longest_queue"`
	Most    int               `json:"most_under_way"` // at once, beside the queued ones

	Use     map[string]Use `json:"use"`      // of workers and links
	Retried int            `json:"retried"`  // builds after a lost worker
	Writes  float64        `json:"writes"`   // commands in the log per deployment
	StateMB float64        `json:"state_mb"` // the state's snapshot in the end
	WallS   float64        `json:"wall_s"`
}

// Spread is a distribution, in seconds.
type Spread struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Use is how much of something was in use: 1 is all of it, all the time.
type Use struct {
	Mean float64 `json:"mean"`
	Peak float64 `json:"peak"` // of the busiest hour, of the busiest of its kind
}

// Hotfixes is how the most urgent fared.
type Hotfixes struct {
	Count  int     `json:"count"`
	InTime float64 `json:"in_time"`
	Queued Spread  `json:"queued_s"`
	Total  Spread  `json:"total_s"`
}

func spread(s []float64) Spread {
	if len(s) == 0 {
		return Spread{}
	}
	slices.Sort(s)
	at := func(q float64) float64 { return s[min(len(s)-1, int(q*float64(len(s))))] }
	return Spread{at(.5), at(.9), at(.99), s[len(s)-1]}
}

// lateIn names what a deployment waited for when its deadline ended it.
func lateIn(f *fate) string {
	switch f.was {
	case starling.PhaseQueued:
		if strings.Contains(f.dep.Reason, "of the same app") {
			return "an earlier deployment of the app"
		}
		return "a free worker"
	case starling.PhaseBuilding:
		return "its build"
	case starling.PhaseReplicating:
		return "the links between regions"
	case starling.PhaseStaging:
		return "the machines' links"
	}
	return "the waves"
}

func (w *world) result() *Result {
	c := w.conf
	r := &Result{
		Seed: c.Seed, Load: c.Load, Workers: c.Workers, Apps: c.Apps, Regions: c.Regions, Machines: c.Regions * c.Machines,
		Deployments: len(w.fates), LateIn: map[string]int{}, Phases: map[string]Spread{}, Longest: w.longest, Most: w.most,
	}
	phases := map[string][]float64{}
	var total, hotTotal, hotQueued []float64
	hours := map[time.Duration]int{}
	hotLate := 0
	for _, f := range w.fates {
		late := f.dep.Phase == starling.PhaseFailed && !f.dep.EndedAt.Before(f.dep.Deadline)
		switch {
		case late:
			r.Late++
			r.LateIn[lateIn(f)]++
		case f.dep.Phase == starling.PhaseSucceeded:
			r.Succeeded++
		case f.was == starling.PhaseBuilding:
			r.BuildFailed++
		default:
			r.Reverted++
		}
		t := &f.dep.Timings
		for _, p := range []struct {
			name string
			ms   int64
		}{{"queued", t.QueuedMS}, {"build", t.BuildMS}, {"replicate", t.ReplicateMS}, {"stage", t.StageMS}, {"rollout", t.RolloutMS}} {
			if p.ms > 0 || p.name == "queued" {
				phases[p.name] = append(phases[p.name], float64(p.ms)/1e3)
			}
		}
		total = append(total, float64(t.TotalMS)/1e3)
		if f.priority > 0 {
			hotTotal, hotQueued = append(hotTotal, float64(t.TotalMS)/1e3), append(hotQueued, float64(t.QueuedMS)/1e3)
			if late {
				hotLate++
			}
		}
		hours[f.at/time.Hour]++
		r.Peak = max(r.Peak, hours[f.at/time.Hour])
		r.Retried += max(0, f.attempts-1)
	}
	for name, s := range phases {
		r.Phases[name] = spread(s)
	}
	r.Total = spread(total)
	r.InTime = 1 - float64(r.Late)/float64(max(1, r.Deployments))
	r.Hotfix = Hotfixes{len(hotTotal), 1 - float64(hotLate)/float64(max(1, len(hotTotal))), spread(hotQueued), spread(hotTotal)}
	r.Use = w.use()
	n := 0
	for _, c := range w.commands {
		n += c
	}
	var size counter
	if err := w.fsm.View().WriteSnapshot(&size); err != nil {
		w.fail(err)
	}
	r.StateMB = float64(size) / 1e6
	r.Writes = float64(n-c.Apps) / float64(max(1, r.Deployments))
	return r
}

// counter is a writer that counts.
type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

// use sums up workers and links.
func (w *world) use() map[string]Use {
	out := map[string]Use{"workers": {w.working.mean(w.conf.Span) / float64(w.conf.Workers), w.working.peak() / float64(w.conf.Workers)}}
	add := func(name string, links ...*link) {
		u := out[name]
		for _, l := range links {
			u.Mean += l.busy.mean(w.conf.Span) / float64(len(links)*len(w.regions))
			u.Peak = max(u.Peak, l.busy.peak())
		}
		out[name] = u
	}
	for _, r := range w.regions {
		add("links between regions", r.wan)
		add("egress of caches", r.egress)
		add("links of machines", r.groups...)
	}
	return out
}
