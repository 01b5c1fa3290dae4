package control

import (
	"cmp"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// jobLine says which job the next worker gets while there are more jobs than workers.
//
// The highest priority goes first. Of one priority it is the one with the nearest due
// time: when the job became its app's next, plus the time from submission to deadline that
// its app allows (earliest deadline first, Liu and Layland, JACM 1973, with releases by
// app). So an app's queue costs others one job at a time, however long it is: the second
// job counts from when the first was over, not from when it was submitted. And nobody
// starves: a due time stands still, and whoever comes later is due later, at most one
// app's deadline aside.
//
// It lives in a leader's memory. The next one begins with the times of submission, which
// is as fair after one job of each app. For one goroutine.
type jobLine struct {
	heads  map[string]jobHead // by app, of those seen while jobs waited
	picked map[string]bool    // for leases that are under way
}

// jobHead is an app's next job, and since when it has been that.
type jobHead struct {
	id    string
	since time.Time
}

// maxIdleHeads bounds the apps that are remembered without a job that waits for a worker.
const maxIdleHeads = 1024

func newJobLine() jobLine {
	return jobLine{heads: map[string]jobHead{}, picked: map[string]bool{}}
}

// order lists the jobs that may be leased now and are not picked yet, first to go first.
func (l *jobLine) order(v raftfsm.View) []string {
	type due struct {
		*starling.Deployment
		at time.Time
	}
	jobs := v.Buildable() // by priority, then in order of submission
	all := make([]due, 0, len(jobs))
	for _, j := range jobs {
		h, known := l.heads[j.App]
		switch {
		case !known:
			h = jobHead{j.ID, j.CreatedAt}
		case h.id != j.ID:
			h = jobHead{j.ID, v.Clock()}
		}
		l.heads[j.App] = h
		if !l.picked[j.ID] {
			all = append(all, due{j, h.since.Add(j.Deadline.Sub(j.CreatedAt))})
		}
	}
	slices.SortStableFunc(all, func(a, b due) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.at.Compare(b.at))
	})
	if len(l.heads) > len(jobs)+maxIdleHeads {
		l.forget(v)
	}
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
	}
	return ids
}

// forget drops the apps that have nothing queued.
func (l *jobLine) forget(v raftfsm.View) {
	for app := range l.heads {
		if _, queued := v.NextForApp(app); !queued {
			delete(l.heads, app)
		}
	}
}
