package history

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// ErrNotJudged says that there was not enough time to judge a history.
var ErrNotJudged = errors.New("not judged")

// maxShown bounds the calls in an error.
const maxShown = 12

// MaxCalls bounds a history; calls beyond it are not made.
const MaxCalls = 20_000

// Recorder keeps the calls of many clients with their answers and times.
type Recorder struct {
	begun time.Time

	mu   sync.Mutex
	ops  []op
	ids  map[string]string // key by deployment ID
	keys map[string]string // ID by key
	errs []error           // what no model is needed for
}

// op is a call whose answer may hold IDs whose keys become known later.
type op struct {
	client   int
	call     Call
	answer   Answer
	from, to time.Duration // since the beginning
	goalID   string
}

// NewRecorder returns an empty history.
func NewRecorder() *Recorder {
	return &Recorder{begun: time.Now(), ids: map[string]string{}, keys: map[string]string{}}
}

func (r *Recorder) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops) >= MaxCalls
}

// add keeps a call that has ended now.
func (r *Recorder) add(client int, c Call, a Answer, from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := op{client: client, call: c, answer: a, from: from.Sub(r.begun), to: time.Since(r.begun)}
	if a.Goal != nil {
		o.goalID = a.Goal.Deployment
	}
	r.ops = append(r.ops, o)
	if d := a.Deployment; d != nil {
		r.learn(d.IdempotencyKey, d.ID)
	}
}

// learn notes which deployment a key made. A key that made two is a fault by itself.
func (r *Recorder) learn(key, id string) {
	if old, ok := r.keys[key]; ok && old != id {
		r.errs = append(r.errs, fmt.Errorf("the key %s made two deployments: %s and %s", key, old, id))
	}
	r.keys[key], r.ids[id] = id, key
}

// id returns the deployment that a key made, "" if that is not known.
func (r *Recorder) id(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[key]
}

// Count returns how many calls there are, and how many with an unknown outcome.
func (r *Recorder) Count() (calls, unknown int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.ops {
		if r.ops[i].answer.Verdict == Unknown {
			unknown++
		}
	}
	return len(r.ops), unknown
}

// Operations returns what Porcupine needs to judge one app: its calls, and the leases that
// may concern it.
func (r *Recorder) Operations(app string) []porcupine.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []porcupine.Operation
	stray := map[string]bool{} // workers that may have got a job without hearing of it
	holds := map[string]bool{} // workers whose last job was this app's
	for _, o := range r.ops {
		a, w := o.answer, o.call.Worker
		a.GoalKey = r.ids[o.goalID]
		p := porcupine.Operation{ClientId: o.client, Input: o.call, Call: int64(o.from), Output: a, Return: int64(o.to)}
		ours := a.Key != "" && a.App == app
		switch {
		case o.call.Kind != Lease && o.call.App != app:
			continue
		case o.call.Kind == Lease && a.Verdict == Unknown:
			stray[w] = true
		case o.call.Kind == Lease && !ours && !stray[w] && !holds[w]:
			continue // nothing to lose here
		case ours:
			// One call may ask the log twice: first it loses what the worker had, later it gets something.
			lost := p
			lost.Output = Answer{Verdict: Done}
			out = append(out, lost)
		case a.Deployment != nil && (o.call.Kind == Submit || o.call.Kind == Rollback) && a.Deployment.Phase != starling.PhaseQueued:
			// Servers tried twice: the first try made it, the second saw what had become of it.
			first := p
			first.Output = Answer{Verdict: Unknown}
			out = append(out, first)
		}
		if o.call.Kind == Lease && a.Verdict == Done && a.Key != "" {
			holds[w] = ours
		}
		out = append(out, p)
	}
	return out
}

// Check judges the history of each app, for so long each. The error names the apps and
// what they show; where a picture can be drawn, dir gets it. judged counts the apps for
// which there was time enough.
func (r *Recorder) Check(apps []string, within time.Duration, dir string) (judged int, err error) {
	r.mu.Lock()
	errs := slices.Clone(r.errs)
	r.mu.Unlock()
	each := make([]error, len(apps))
	var judges sync.WaitGroup
	for i, app := range apps {
		judges.Go(func() { each[i] = CheckOperations(app, r.Operations(app), within, dir) })
	}
	judges.Wait()
	for _, err := range each {
		if !errors.Is(err, ErrNotJudged) {
			judged++
			errs = append(errs, err)
		}
	}
	return judged, errors.Join(errs...)
}

// CheckOperations judges one app's history. With a directory, a history that is not
// linearizable is drawn there.
func CheckOperations(app string, ops []porcupine.Operation, within time.Duration, dir string) error {
	first, last := int64(math.MaxInt64), int64(0)
	for i := range ops {
		first, last = min(first, ops[i].Call), max(last, ops[i].Return)
	}
	m := Model(app, last-first >= int64(rpc.LeaseTTL))
	result, info := porcupine.CheckOperationsVerbose(m, ops, within)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("app %s: %d calls within %s: %w%s", app, len(ops), within, ErrNotJudged, stuck(ops, info))
	}
	err := fmt.Errorf("app %s: the history of %d calls is not linearizable: %w%s", app, len(ops), starling.ErrCorrupt, stuck(ops, info))
	if dir == "" {
		return err
	}
	file := dir + "/" + app + ".html"
	return errors.Join(err, porcupine.VisualizePath(m, info, file), fmt.Errorf("see %s", file))
}

// stuck shows how far the judge came, and what would not fit there.
func stuck(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []porcupine.Operation
	for _, part := range info.PartialLinearizationsOperations() {
		for _, l := range part {
			if len(l) > len(longest) {
				longest = l
			}
		}
	}
	fits := func(o porcupine.Operation) bool {
		return slices.ContainsFunc(longest, func(l porcupine.Operation) bool {
			return l.ClientId == o.ClientId && l.Call == o.Call && l.Return == o.Return && describe(l.Input, l.Output) == describe(o.Input, o.Output)
		})
	}
	rest := slices.DeleteFunc(slices.Clone(ops), fits)
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	var b strings.Builder
	show := func(title string, ops []porcupine.Operation) {
		fmt.Fprintf(&b, "\n%s", title)
		for _, o := range ops {
			fmt.Fprintf(&b, "\n  %8.3f-%8.3f s  client %d: %s", time.Duration(o.Call).Seconds(), time.Duration(o.Return).Seconds(), o.ClientId, describe(o.Input, o.Output))
		}
	}
	show(fmt.Sprintf("%d calls fit, the last of them:", len(longest)), longest[max(0, len(longest)-maxShown):])
	show("what does not fit after them:", rest[:min(len(rest), maxShown/2)])
	return b.String()
}

// verdictOf tells what an error says about the call. It reports false if the call
// certainly never reached a server. That nobody could be dialled says so, but of a call with an
// idempotency key: when a connection breaks, net/http makes such a request again by itself, and
// the error is that of the second try.
func verdictOf(err error, keyed bool) (Verdict, bool) {
	var dial *net.OpError
	switch {
	case err == nil:
		return Done, true
	case errors.Is(err, starling.ErrNotFound):
		return Missing, true
	case errors.Is(err, starling.ErrFenced):
		return Fenced, true
	case errors.Is(err, starling.ErrConflict):
		return Refused, true
	case errors.As(err, &dial) && dial.Op == "dial" && !keyed, errors.Is(err, starling.ErrNotLeader):
		return Unknown, false
	}
	return Unknown, true
}

// know notes a deployment that a list showed.
func (r *Recorder) know(d *starling.Deployment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.learn(d.IdempotencyKey, d.ID)
}
