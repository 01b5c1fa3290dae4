package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/notify"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/webhook"
)

// receiver is a webhook's far side, which is not always well.
type receiver struct {
	*httptest.Server
	secret string

	mu    sync.Mutex
	calls int
	ill   func(call int, m *notify.Message) int // the status to answer; 0: none at all
	got   map[string]int                        // how often each ID was taken
	order []string
	bad   []string // what was wrong with requests
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{got: map[string]int{}, ill: func(int, *notify.Message) int { return 204 }}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	var m notify.Message
	if err != nil || json.Unmarshal(body, &m) != nil || m.ID == "" || m.ID != req.Header.Get(webhook.HeaderID) {
		r.bad = append(r.bad, fmt.Sprintf("body %.200q, ID %q, %v", body, req.Header.Get(webhook.HeaderID), err))
	}
	at, err := strconv.ParseInt(req.Header.Get(webhook.HeaderTimestamp), 10, 64)
	if _, verr := webhook.Verify(starling.WebhookGeneric, r.secret, req.Header, body, time.Unix(at, 0)); err != nil || verr != nil {
		r.bad = append(r.bad, fmt.Sprintf("signature: %v, %v", err, verr))
	}
	r.calls++
	status := r.ill(r.calls, &m)
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	if status < 300 {
		if r.got[m.ID] == 0 {
			r.order = append(r.order, m.Type+" "+m.Data.Deployment)
		}
		r.got[m.ID]++
	}
	w.WriteHeader(status)
}

func (r *receiver) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// notifyBench is a bench whose terms tell sinks, in a hurry.
func notifyBench(t *testing.T) *bench {
	b := newBench(t, "us", func(c *Config) {
		c.NotifyLocal, c.SecretKey = true, []byte(strings.Repeat("k", hookSecretBytes))
	})
	b.server.pace = notifyPace{retryMin: time.Millisecond, retryMax: 5 * time.Millisecond, giveUp: time.Hour, keep: 0, look: time.Millisecond}
	t.Cleanup(b.server.poster.Close)
	b.app("web", nil)
	return b
}

// tell begins a term that tells sinks; what it returns ends it.
func (b *bench) tell() (end func()) {
	t := b.elect()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = t.notify(t.ctx) // it ends with the term
	}()
	return func() { b.depose(); <-done }
}

func (b *bench) sink(n starling.NewSink) *starling.IssuedSink {
	b.t.Helper()
	k, err := b.server.CreateSink(b.t.Context(), "ann", n)
	if err != nil {
		b.t.Fatal(err)
	}
	return k
}

// episode is a deployment that is submitted and cancelled: two events of which sinks are told.
func (b *bench) episode(id string) {
	b.t.Helper()
	b.submit(id, "web", starling.Digest{})
	b.must(raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled, Reason: "enough"})
}

func (b *bench) command(kind raftfsm.Type, payload any) raftfsm.Command {
	b.t.Helper()
	c, err := raftfsm.NewCommand(kind, b.clock.Now(), "ann", payload)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s: not in time", what)
		}
	}
}

// A receiver that fails, hangs up and is slow is told of every event at least once, in their
// order, though the leader changes again and again.
func TestSinksAreToldOfEverythingAcrossTerms(t *testing.T) {
	b := notifyBench(t)
	r := newReceiver(t)
	end := b.tell()
	r.secret = b.sink(starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL}).Secret
	r.ill = func(call int, _ *notify.Message) int {
		switch call % 7 {
		case 1:
			return 503
		case 3:
			return 0
		case 5:
			time.Sleep(3 * time.Millisecond)
		}
		return 200
	}
	const episodes = 30
	for i := range episodes {
		b.episode(fmt.Sprintf("d%d", i))
		if i%6 == 5 {
			at := r.taken()
			b.wait("the next message", func() bool { return r.taken() > at })
			end()
			end = b.tell()
		}
	}
	b.wait("all messages", func() bool { return r.taken() == 2*episodes })
	b.wait("their count", func() bool {
		st := b.server.Sinks()[0]
		return st.Pending == 0 && st.Progress.Delivered >= 2*episodes && st.Attempt == 0
	})
	b.wait("its being kept", func() bool { k, _ := b.fsm.View().Sink("ops"); return k.Progress.Delivered >= 2*episodes })
	end()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) > 0 {
		t.Errorf("bad requests: %q", r.bad)
	}
	for i := range episodes {
		if got, want := strings.Join(r.order[2*i:2*i+2], ", "), fmt.Sprintf("deployment.submitted d%d, deployment.cancelled d%d", i, i); got != want {
			t.Errorf("message %d: %s, want %s", 2*i, got, want)
		}
	}
	if k, _ := b.fsm.View().Sink("ops"); k.Progress.Dropped != 0 || k.Progress.LastError == "" {
		t.Errorf("kept: %+v", k.Progress)
	}
	again := 0
	for _, n := range r.got {
		again += n - 1
	}
	t.Logf("%d requests for %d events, %d told again", r.calls, len(r.got), again)
}

// A message that the receiver calls wrong is given up after a few tries and holds up nothing;
// while it is tried, anybody can see so.
func TestAWrongMessageIsGivenUp(t *testing.T) {
	b := notifyBench(t)
	r := newReceiver(t)
	var release sync.Once
	seen := make(chan struct{})
	r.ill = func(_ int, m *notify.Message) int {
		if m.Data.Deployment == "d1" {
			release.Do(func() { close(seen) })
			return 422
		}
		return 200
	}
	b.server.pace.retryMin, b.server.pace.retryMax = 100*time.Millisecond, 100*time.Millisecond
	defer b.tell()()
	r.secret = b.sink(starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL, Notices: []string{"submitted"}}).Secret
	b.submit("d1", "web", starling.Digest{})
	b.submit("d2", "web", starling.Digest{})
	<-seen
	b.wait("the trouble shown", func() bool {
		st := b.server.Sinks()[0]
		return st.Attempt > 0 && st.Pending == 2 && !st.NextTry.IsZero() && st.Waiting != "" && strings.Contains(st.Progress.LastError, "422")
	})
	b.wait("the next one", func() bool { return r.taken() == 1 })
	b.wait("the count", func() bool {
		st := b.server.Sinks()[0]
		return st.Progress.Dropped == 1 && st.Progress.Delivered == 1 && st.Pending == 0 && st.Attempt == 0
	})
	if r.mu.Lock(); r.calls != tellFinalTries+1 {
		t.Errorf("%d tries", r.calls)
	}
	r.mu.Unlock()
}

// How far sinks were told costs few log entries, and none when nothing happens.
func TestTellingWritesLittle(t *testing.T) {
	b := notifyBench(t)
	b.server.pace.keep = time.Hour // by the bench's clock, which stands still
	r := newReceiver(t)
	end := b.tell()
	r.secret = b.sink(starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL}).Secret
	for i := range 50 {
		b.episode(fmt.Sprintf("d%d", i))
	}
	b.wait("all messages", func() bool { return r.taken() == 100 })
	b.wait("their count", func() bool { return b.server.Sinks()[0].Progress.Delivered == 100 })
	b.clock.advance(2 * time.Hour)
	b.wait("its being kept", func() bool { k, _ := b.fsm.View().Sink("ops"); return k.Progress.Delivered == 100 })
	b.clock.advance(2 * time.Hour)
	b.must(raftfsm.TypeAppApply, raftfsm.AppApply{App: *b.app("other", nil)})
	time.Sleep(20 * time.Millisecond) // a write too many would come by now, or pass unseen: never a false alarm
	end()
	b.raft.mu.Lock()
	defer b.raft.mu.Unlock()
	if n := b.raft.writes[raftfsm.TypeSinkProgress]; n != 1 {
		t.Errorf("%d log entries for 100 messages", n)
	}
}

// What left the ring of events before a sink was told of it is counted, and the rest told.
func TestWhatWasMissedIsCounted(t *testing.T) {
	b := notifyBench(t)
	r := newReceiver(t)
	end := b.tell()
	r.secret = b.sink(starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL}).Secret
	end()
	var flood []raftfsm.Command
	for range raftfsm.MaxEntryCommands / 2 {
		flood = append(flood,
			b.command(raftfsm.TypeWebhookCreate, raftfsm.WebhookCreate{Webhook: starling.Webhook{Name: "x", Kind: "github", Sealed: []byte("x")}}),
			b.command(raftfsm.TypeWebhookDelete, raftfsm.WebhookDelete{Name: "x"}))
	}
	for range raftfsm.MaxEventsKept/len(flood) + 1 {
		if _, err := b.raft.Propose(t.Context(), flood...); err != nil {
			t.Fatal(err)
		}
	}
	b.submit("d1", "web", starling.Digest{})
	defer b.tell()()
	b.wait("the rest", func() bool { return r.taken() == 1 })
	b.wait("the count", func() bool { return b.server.Sinks()[0].Progress.Dropped == 1 })
	if st := b.server.Sinks()[0]; !strings.Contains(st.Progress.LastError, "dropped untold") {
		t.Errorf("%+v", st.Progress)
	}
}

func TestSinksThatAreRefused(t *testing.T) {
	b := newBench(t, "us", nil)
	t.Cleanup(b.server.poster.Close)
	b.elect()
	for name, n := range map[string]starling.NewSink{
		"url":      {Name: "x", Kind: starling.SinkWebhook, URL: "http://hooks.example/x"},
		"template": {Name: "x", Kind: starling.SinkGitHub, Secret: "12345678", Template: `{"state": {state}}`},
	} {
		_, err := b.server.CreateSink(t.Context(), "ann", n)
		if !starling.IsInvalid(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.server.CreateSink(t.Context(), "ann", starling.NewSink{Name: "x", Kind: starling.SinkGitHub, URL: "https://x/{nonsense}", Secret: "12345678"}); !starling.IsInvalid(err) {
		t.Errorf("an unknown word: %v", err)
	}
}

// Real Raft: the leader dies while a receiver is being told, and the next goes on.
func TestSinksOutliveTheLeader(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 3})
	us := w.regions["us"]
	w.eventually("a leader", func() bool { return us.leader() != nil })
	r := newReceiver(t)
	r.ill = func(call int, _ *notify.Message) int {
		if call%5 == 2 {
			return 500
		}
		return 200
	}
	app := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })
	w.home(func(s *Server) error {
		k, err := s.CreateSink(w.ctx, "ann", starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL, Notices: []string{"submitted"}})
		if err == nil {
			r.secret = k.Secret
		}
		return err
	})
	var ids []string
	for i := range 4 {
		ids = append(ids, w.submit(starling.Submission{App: "web", SHA: strings.Repeat(strconv.Itoa(i), 40), IdempotencyKey: strconv.Itoa(i)}))
	}
	w.eventually("the first message", func() bool { return r.taken() > 0 })
	dead := w.led(us)
	dead.stop()
	us.members.alive(dead.node.Name, false)
	for i := range 4 {
		ids = append(ids, w.submit(starling.Submission{App: "web", SHA: strings.Repeat(strconv.Itoa(i), 40), IdempotencyKey: strconv.Itoa(4 + i)}))
	}
	w.eventually("all messages", func() bool { return r.taken() == len(ids) })
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		if !strings.Contains(strings.Join(r.order, " "), id) {
			t.Errorf("nobody was told of %s", id)
		}
	}
	if len(r.bad) > 0 {
		t.Errorf("bad requests: %q", r.bad)
	}
}

// What is sealed opens under its own name and key only.
func TestSealed(t *testing.T) {
	key := func(c string) func(*Config) {
		return func(conf *Config) { conf.SecretKey = []byte(strings.Repeat(c, hookSecretBytes)) }
	}
	one, other, none := newBench(t, "us", key("a")).server, newBench(t, "us", key("b")).server, newBench(t, "us", nil).server
	abroad := newBench(t, "eu", key("a")).server
	sealed, err := one.seal("webhook x", hookSecrets{"a secret"})
	if err != nil || strings.Contains(string(sealed), "a secret") {
		t.Fatalf("%q, %v", sealed, err)
	}
	var got hookSecrets
	if err := one.open("webhook x", sealed, &got); err != nil || got.Secret != "a secret" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, err := range map[string]error{
		"another name":   one.open("webhook y", sealed, &got),
		"another key":    other.open("webhook x", sealed, &got),
		"no key":         none.open("webhook x", sealed, &got),
		"another region": abroad.open("webhook x", sealed, &got),
		"nothing":        one.open("webhook x", nil, &got),
		"a bit changed":  one.open("webhook x", append(sealed[:len(sealed)-1:len(sealed)-1], sealed[len(sealed)-1]^1), &got),
		"cut off":        one.open("webhook x", sealed[:5], &got),
	} {
		if err == nil {
			t.Errorf("%s: it opened", name)
		}
	}
	if _, err := none.seal("webhook x", hookSecrets{"a secret"}); err != nil {
		t.Error(err)
	}
}

// A sink is tried with what it would be told of, and what its receiver says comes back.
func TestASinkIsTried(t *testing.T) {
	b := notifyBench(t)
	b.elect()
	r := newReceiver(t)
	r.secret = b.sink(starling.NewSink{Name: "ops", Kind: starling.SinkWebhook, URL: r.URL}).Secret
	b.sink(starling.NewSink{Name: "commits", Kind: starling.SinkGitHub, URL: r.URL + "/{sha}", Secret: "12345678"})
	if got, err := b.server.TrySink(t.Context(), "ops"); err != nil || got.Error != "" || !strings.Contains(got.Text, "region us") || r.taken() != 1 {
		t.Errorf("without a deployment: %+v, %v, %d taken", got, err, r.taken())
	}
	if _, err := b.server.TrySink(t.Context(), "commits"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("a status of no commit: %v", err)
	}
	b.submit("d1", "web", starling.Digest{})
	r.ill = func(int, *notify.Message) int { return 418 }
	for _, name := range []string{"ops", "commits"} {
		if got, err := b.server.TrySink(t.Context(), name); err != nil || !strings.Contains(got.Error, "418") || !strings.Contains(got.Text, "was submitted") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := b.server.TrySink(t.Context(), "nobody"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if st := b.server.Sinks()[0]; st.Progress.Delivered != 0 || st.Pending != 1 {
		t.Errorf("a trial counts as news: %+v", st)
	}
}
