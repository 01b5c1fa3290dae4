package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/httpapi"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Deploy a commit and wait for the end, as a pipeline does.
func Example() {
	defer exampleServer()()
	c, err := client.New(client.FromEnv()) // STARLING_ADDR, STARLING_TOKEN, STARLING_CACERT
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()

	d, err := c.Submit(ctx, starling.Submission{
		App: "hello", SHA: "0123456789abcdef0123456789abcdef01234567",
		IdempotencyKey: "pipeline-4711", // a retry finds this deployment instead of making another
	})
	if err != nil {
		log.Fatal(err)
	}
	last := d.Phase
	d, err = c.Wait(ctx, d.ID, 10*time.Millisecond, func(d *starling.Deployment) {
		if d.Phase != last {
			fmt.Println(d.Phase)
			last = d.Phase
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.App, "ended:", d.Phase)
	// Output:
	// building
	// replicating
	// staging
	// rolling_out
	// succeeded
	// hello ended: succeeded
}

// Change an app only if nobody else has changed it since it was read.
func ExampleClient_ApplyApp() {
	defer exampleServer()()
	c, err := client.New(client.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	app, err := c.App(ctx, "hello")
	if err != nil {
		log.Fatal(err)
	}
	seen := app.Revision
	app.Deploy.Strategy.Waves = []string{"1%", "100%"}
	if _, err := c.ApplyApp(ctx, *app, &seen); err != nil {
		log.Fatal(err)
	}
	app.Deploy.Strategy.Waves = []string{"50%", "100%"}
	_, err = c.ApplyApp(ctx, *app, &seen) // the revision has moved on
	fmt.Println("conflict:", errors.Is(err, starling.ErrConflict))
	// Output: conflict: true
}

// What is wrong with the input is named, with what to do about it.
func ExampleError() {
	defer exampleServer()()
	c, err := client.New(client.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	app := starling.App{Name: "hello", Deploy: starling.DeploySpec{Keep: 99}}
	_, err = c.ApplyApp(context.Background(), app, nil)
	var problem *client.Error
	if errors.As(err, &problem) {
		fmt.Println(problem.Status, problem.Kind, problem.Pointer)
		fmt.Println(problem.Detail)
		fmt.Println("hint:", problem.Hint)
	}
	_, err = c.Deployment(context.Background(), "d-none")
	fmt.Println("not found:", errors.Is(err, starling.ErrNotFound))
	// Output:
	// 400 invalid #/deploy/keep
	// 99 is not within 1 and 20
	// hint: how many releases machines keep for rolling back, 1 to 20; 3 unless given
	// not found: true
}

// Watch what happens. After a break the watch goes on after the last event that was seen;
// Gap says when older ones are gone.
func ExampleClient_Events() {
	defer exampleServer()()
	c, err := client.New(client.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	d, err := c.Submit(ctx, starling.Submission{App: "hello", SHA: "0123456789abcdef0123456789abcdef01234567"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Act(ctx, d.ID, starling.ActionCancel); err != nil {
		log.Fatal(err)
	}
	enough := errors.New("enough")
	err = c.Events(ctx, "1.0", func(ev client.ServerEvent) error {
		if ev.Gap || ev.Deployment != d.ID {
			return nil
		}
		fmt.Println(ev.Type, ev.Phase)
		if ev.Phase.Terminal() {
			return enough // ends the watch
		}
		return nil
	})
	fmt.Println(errors.Is(err, enough))
	// Output:
	// deployment.queued queued
	// deployment.phase cancelled
	// true
}

// Have somebody told of failures. The secret signs what is sent (Standard Webhooks).
func ExampleClient_CreateSink() {
	defer exampleServer()()
	c, err := client.New(client.FromEnv())
	if err != nil {
		log.Fatal(err)
	}
	sink, err := c.CreateSink(context.Background(), starling.NewSink{
		Name: "ops", Kind: starling.SinkWebhook, URL: "https://ops.example/starling", Notices: []string{"failed", "reverted"},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sink.Name, sink.To, sink.Notices)
	// Output: ops https://ops.example/starling [failed reverted]
}

// exampleServer serves the real API on a real state machine, and points STARLING_ADDR at it.
// It has an app hello, and deployments get a phase further whenever they are looked at.
func exampleServer() (stop func()) {
	b := &stage{fsm: raftfsm.New("eu")}
	app := starling.App{Name: "hello", Source: starling.SourceSpec{Git: "https://git.example/hello.git"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.SetDefaults()
	if _, err := b.ApplyApp(context.Background(), "ann", app, nil); err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(httpapi.New(httpapi.Config{Backend: b}))
	restore := setenv("STARLING_ADDR", srv.URL)
	return func() { restore(); srv.CloseClientConnections(); srv.Close() }
}

// stage is the part of a server that the examples need.
type stage struct {
	httpapi.Backend // what they do not: nil
	mu              sync.Mutex
	fsm             *raftfsm.FSM
	index           uint64
}

func (b *stage) do(actor string, t raftfsm.Type, payload any) (raftfsm.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, err := raftfsm.NewCommand(t, time.Now(), actor, payload)
	if err != nil {
		return raftfsm.Result{}, err
	}
	data, err := raftfsm.Encode([]raftfsm.Command{c})
	if err != nil {
		return raftfsm.Result{}, err
	}
	b.index++
	r := b.fsm.Apply(&raft.Log{Index: b.index, Data: data}).([]raftfsm.Result)[0]
	return r, r.Err
}

func (b *stage) Route(context.Context, string, string) (http.RoundTripper, error) { return nil, nil }
func (b *stage) App(name string) (*starling.App, bool)                            { return b.fsm.View().App(name) }

func (b *stage) Leader() starling.LeaderStatus {
	return starling.LeaderStatus{Region: "eu", Name: "s1", Self: true, Index: b.fsm.View().Index()}
}

func (b *stage) WaitIndex(ctx context.Context, index uint64) uint64 {
	select {
	case <-b.fsm.Changed(index):
	case <-ctx.Done():
	}
	return b.fsm.View().Index()
}

func (b *stage) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	return b.fsm.View().EventsAfter(index, n, limit)
}

func (b *stage) FollowProgress(ctx context.Context, _ func([]starling.DeploymentProgress)) {
	<-ctx.Done()
}

func (b *stage) ApplyApp(_ context.Context, actor string, app starling.App, ifRevision *uint64) (*starling.App, error) {
	r, err := b.do(actor, raftfsm.TypeAppApply, raftfsm.AppApply{App: app, IfRevision: ifRevision})
	return r.App, err
}

func (b *stage) Submit(_ context.Context, actor string, s starling.Submission) (*starling.Deployment, bool, error) {
	r, err := b.do(actor, raftfsm.TypeSubmit, raftfsm.Submit{ID: "d-1", App: s.App, SHA: s.SHA, IdempotencyKey: s.IdempotencyKey, Regions: []string{"eu"}})
	return r.Deployment, r.Created, err
}

func (b *stage) Act(_ context.Context, actor, id string, _ starling.Action, _ starling.ActionOptions) (*starling.Deployment, error) {
	r, err := b.do(actor, raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled, Reason: "cancelled by " + actor})
	return r.Deployment, err
}

func (b *stage) CreateSink(_ context.Context, actor string, n starling.NewSink) (*starling.IssuedSink, error) {
	k := starling.Sink{Name: n.Name, Kind: n.Kind, To: n.Shown(), Sealed: []byte("sealed")}
	for _, name := range n.Notices {
		k.Notices = append(k.Notices, starling.Notice(name))
	}
	r, err := b.do(actor, raftfsm.TypeSinkCreate, raftfsm.SinkCreate{Sink: k})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedSink{Sink: *r.Sink, Secret: "whsec_…"}, nil
}

// Deployment shows a deployment, then takes it a step further.
func (b *stage) Deployment(id string) (*starling.Deployment, bool) {
	d, ok := b.fsm.View().Deployment(id)
	if !ok {
		return nil, false
	}
	t, payload := raftfsm.TypeAdvance, any(raftfsm.Advance{ID: id, From: d.Phase, To: starling.PhaseStaging})
	switch d.Phase {
	case starling.PhaseQueued:
		t, payload = raftfsm.TypeJobLease, raftfsm.JobLease{Worker: "w1/0"}
	case starling.PhaseBuilding:
		art := starling.Artifact{Digest: starling.DigestOf([]byte("v1")), Bytes: 100, Files: 2, Chunks: 1}
		t, payload = raftfsm.TypeJobComplete, raftfsm.JobComplete{ID: id, Lease: d.Lease, Artifact: art}
	case starling.PhaseReplicating:
		if _, err := b.do("server:s1", raftfsm.TypePlaced, raftfsm.Placed{ID: id, Placing: starling.Placing{Name: "eu", Placed: true, ChunksDone: 1, ChunksTotal: 1}}); err != nil {
			log.Fatal(err)
		}
	case starling.PhaseStaging:
		payload = raftfsm.Advance{ID: id, From: d.Phase, To: starling.PhaseRollingOut}
	case starling.PhaseRollingOut:
		payload = raftfsm.Advance{ID: id, From: d.Phase, To: starling.PhaseSucceeded}
	}
	if !d.Phase.Terminal() {
		if _, err := b.do("server:s1", t, payload); err != nil {
			log.Fatal(err)
		}
	}
	return d, true
}
