package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// one is an account of a single submission, and two servers of its home and one of
// another region that hold its deployment.
type one struct {
	*ledger
	servers []held
}

func newOne() *one {
	o := &one{ledger: newLedger()}
	o.submit("k", "web", time.Minute, time.Unix(0, 0))
	for name, home := range map[string]bool{"r1-server-1": true, "r1-server-2": true, "r2-server-1": false} {
		o.servers = append(o.servers, held{server: name, home: map[string]bool{"web": home}, keys: map[string][]string{}, phases: map[string]starling.Phase{}})
	}
	return o
}

func (o *one) acknowledged(id string) *one {
	o.acknowledge("k", id, time.Unix(1, 0))
	return o
}

func (o *one) ended(id string, p starling.Phase, at int64) *one {
	o.phase(id, p, time.Unix(at, 0))
	return o
}

// holding puts a deployment onto the servers whose names begin with some text.
func (o *one) holding(id, servers string, p starling.Phase) *one {
	for _, h := range o.servers {
		if strings.HasPrefix(h.server, servers) {
			h.keys["k"] = append(h.keys["k"], id)
			h.phases[id] = p
		}
	}
	return o
}

func TestJudge(t *testing.T) {
	const good, bad, stopped = starling.PhaseSucceeded, starling.PhaseFailed, starling.PhaseCancelled
	for name, c := range map[string]struct {
		of      *one
		want    Counts
		problem string
	}{
		"kept":                     {newOne().acknowledged("d1").ended("d1", good, 5).ended("d1", good, 6).holding("d1", "r", good), Counts{Acknowledged: 1, Ended: 1}, ""},
		"its events were missed":   {newOne().acknowledged("d1").holding("d1", "r", good), Counts{Untold: 1, Acknowledged: 1, Ended: 1}, "no event"},
		"lost on one server":       {newOne().acknowledged("d1").ended("d1", good, 5).holding("d1", "r1-server-1", good).holding("d1", "r2", good), Counts{Acknowledged: 1, Ended: 1, Lost: 1}, "r1-server-2"},
		"lost everywhere":          {newOne().acknowledged("d1"), Counts{Acknowledged: 1, Lost: 1, Unmirrored: 1}, "not on"},
		"not mirrored":             {newOne().acknowledged("d1").holding("d1", "r1", good), Counts{Untold: 1, Acknowledged: 1, Ended: 1, Unmirrored: 1}, "r2-server-1"},
		"mirrored too early":       {newOne().acknowledged("d1").holding("d1", "r1", good).holding("d1", "r2", starling.PhaseStaging), Counts{Untold: 1, Acknowledged: 1, Ended: 1, Unmirrored: 1}, "r2-server-1"},
		"answered twice":           {newOne().acknowledged("d1").acknowledged("d2").holding("d1", "r", good).holding("d2", "r", good), Counts{Untold: 1, Acknowledged: 1, Ended: 1, Duplicated: 1}, "[d1 d2]"},
		"held twice":               {newOne().acknowledged("d1").holding("d1", "r", good).holding("d2", "r2", good), Counts{Untold: 1, Acknowledged: 1, Ended: 1, Duplicated: 1}, "[d1 d2]"},
		"never answered":           {newOne(), Counts{Unanswered: 1}, "never"},
		"open":                     {newOne().acknowledged("d1").holding("d1", "r1", starling.PhaseStaging).holding("d1", "r2", good), Counts{Acknowledged: 1, EndedTwice: 1}, "staging"},
		"open, said to have ended": {newOne().acknowledged("d1").ended("d1", bad, 3).holding("d1", "r", starling.PhaseStaging), Counts{Acknowledged: 1, EndedTwice: 1, Unmirrored: 1}, "failed and is staging"},
		"two ends over time":       {newOne().acknowledged("d1").ended("d1", bad, 3).ended("d1", good, 4).holding("d1", "r", good), Counts{Acknowledged: 1, Ended: 1, EndedTwice: 1}, "[failed succeeded]"},
		"two ends among servers":   {newOne().acknowledged("d1").holding("d1", "r1", good).holding("d1", "r2", stopped), Counts{Untold: 1, Acknowledged: 1, Ended: 1, EndedTwice: 1}, "ended as"},
		"just in time":             {newOne().acknowledged("d1").ended("d1", bad, 71).holding("d1", "r", bad), Counts{Acknowledged: 1, Ended: 1}, ""},
		"late":                     {newOne().acknowledged("d1").ended("d1", bad, 72).holding("d1", "r", bad), Counts{Acknowledged: 1, Ended: 1, Late: 1}, "after its deadline"},
	} {
		got, problems := c.of.judge(c.of.servers)
		c.want.Submitted, c.want.ByPhase, got.ByPhase = 1, nil, nil
		if !equalCounts(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if kept := c.problem == "" || c.problem == "no event"; kept != (got.Verdict() == nil) || !strings.Contains(strings.Join(problems, "\n"), c.problem) || c.problem == "" && len(problems) > 0 {
			t.Errorf("%s: verdict %v, problems %q", name, got.Verdict(), problems)
		}
	}
}

func equalCounts(a, b Counts) bool {
	a.ByPhase, b.ByPhase = nil, nil
	return a.Submitted == b.Submitted && a.Acknowledged == b.Acknowledged && a.Ended == b.Ended && a.Lost == b.Lost &&
		a.Duplicated == b.Duplicated && a.EndedTwice == b.EndedTwice && a.Uncancelled == b.Uncancelled && a.Late == b.Late &&
		a.Unmirrored == b.Unmirrored && a.Refused == b.Refused && a.Untold == b.Untold && a.Unanswered == b.Unanswered
}

func TestCancelBinds(t *testing.T) {
	for end, want := range map[starling.Phase]int{starling.PhaseCancelled: 0, starling.PhaseSucceeded: 1} {
		o := newOne().acknowledged("d1").ended("d1", end, 2).holding("d1", "r", end)
		o.cancel("d1")
		if got, _ := o.judge(o.servers); got.Uncancelled != want {
			t.Errorf("cancelled with success, then %s: %+v", end, got)
		}
	}
}

// What was refused for good is no promise, and told.
func TestRefused(t *testing.T) {
	o := newOne()
	o.refuse("k", "no such app")
	got, problems := o.judge(o.servers)
	if got.Refused != 1 || got.Acknowledged != 0 || got.Verdict() != nil || len(problems) != 1 {
		t.Errorf("%+v, %q", got, problems)
	}
}

func TestOpenAndPatience(t *testing.T) {
	o := newOne()
	if o.open() != 0 {
		t.Error("open before it was acknowledged")
	}
	if o.acknowledged("d1"); o.open() != 1 || !o.patience().Equal(time.Unix(71, 0)) {
		t.Errorf("%d open, patience until %s", o.open(), o.patience())
	}
	o.ended("d1", starling.PhaseStaging, 2)
	if o.ended("d1", starling.PhaseFailed, 3); o.open() != 0 {
		t.Error("open after its end")
	}
}
