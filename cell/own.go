package cell

import (
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// reporting is what a member has to tell the speaker. It keeps the latest report of each
// app, never a queue: what is sent again is always the newest.
type reporting struct {
	apps    map[string]*ownReport
	speaker string
	term    uint64    // of the speaker; 0: not known yet
	at      time.Time // of the next post; zero: nothing to send
	sending bool
	fails   int
}

type ownReport struct {
	report starling.MachineReport
	fresh  bool // the speaker has not had it
}

// ownReports takes what this machine has to say.
func (b *Brain) ownReports(reports []starling.MachineReport) {
	for i := range reports {
		r := &reports[i]
		if old := b.own.apps[r.App]; old != nil && sameReport(&old.report, r) {
			continue
		}
		if len(b.own.apps) >= rpc.MaxReports && b.own.apps[r.App] == nil {
			continue // a machine runs a handful
		}
		b.own.apps[r.App] = &ownReport{*r, true}
		b.own.at = sooner(b.own.at, b.now)
	}
}

func sameReport(a, b *starling.MachineReport) bool {
	return a.Generation == b.Generation && a.State == b.State && a.Running == b.Running && a.ChunksDone == b.ChunksDone &&
		a.ChunksTotal == b.ChunksTotal && a.Bytes == b.Bytes && a.Reason == b.Reason && a.FetchMS == b.FetchMS && a.Bound == b.Bound &&
		slices.Equal(a.Kept, b.Kept) && slices.Equal(a.Distrusted, b.Distrusted)
}

// forgetApps drops reports on apps that have no goal any more.
func (b *Brain) forgetApps() {
	if len(b.own.apps) == 0 {
		return
	}
	have := make(map[string]bool, len(b.feed.Goals))
	for _, g := range b.feed.Goals {
		have[g.App] = true
	}
	maps.DeleteFunc(b.own.apps, func(app string, _ *ownReport) bool { return !have[app] })
}

// chooseSpeaker takes the speaker by the present view. A new one is told everything.
func (b *Brain) chooseSpeaker() {
	speaker := b.view.Speaker()
	term := b.view.words[speaker].Term
	if speaker == b.node.Name {
		term = b.word.Term
	}
	if speaker == b.own.speaker {
		b.heardTerm(term)
		return
	}
	b.own.speaker, b.own.term, b.own.fails = speaker, term, 0
	b.tellAll()
}

// heardTerm takes the term of the speaker. In another one it knows nothing any more.
func (b *Brain) heardTerm(term uint64) {
	if term == 0 || term == b.own.term {
		return
	}
	again := b.own.term != 0
	b.own.term = term
	if again {
		b.tellAll()
	}
}

func (b *Brain) tellAll() {
	for _, r := range b.own.apps {
		r.fresh = true
	}
	if len(b.own.apps) == 0 {
		return
	}
	b.own.at = b.now
	if b.own.speaker != b.node.Name {
		b.own.at = b.now.Add(b.within(reportSpread))
	}
}

func (b *Brain) reportAt() time.Time {
	if b.own.sending {
		return time.Time{}
	}
	return b.own.at
}

// report tells the speaker what it has not had.
func (b *Brain) report() {
	w := &b.own
	if w.sending || w.at.IsZero() || b.now.Before(w.at) {
		return
	}
	w.at = time.Time{}
	var fresh []starling.MachineReport
	for _, app := range slices.Sorted(maps.Keys(w.apps)) {
		if r := w.apps[app]; r.fresh {
			fresh = append(fresh, r.report)
			r.fresh = false
		}
	}
	if len(fresh) == 0 {
		return
	}
	if w.speaker == b.node.Name {
		if _, err := b.Take(b.now, b.node.Name, fresh); err != nil {
			b.sendAgain(fresh)
		}
		return
	}
	to := b.view.living(w.speaker)
	if to == nil {
		b.sendAgain(fresh)
		return
	}
	w.sending = true
	b.do(SendReports{*to, fresh})
}

func (b *Brain) sendAgain(reports []starling.MachineReport) {
	w := &b.own
	for i := range reports {
		if r := w.apps[reports[i].App]; r != nil {
			r.fresh = true
		}
	}
	w.fails++
	w.at = b.now.Add(b.backoff(w.fails, reportBackoff))
}

func (b *Brain) reportsTaken(ev ReportsTaken) {
	w := &b.own
	w.sending = false
	switch {
	case ev.Sent.To.Name != w.speaker: // the new one is told everything
	case ev.Err != nil:
		b.sendAgain(ev.Sent.Reports)
	default:
		w.fails = 0
		b.heardTerm(ev.Term)
	}
}
