package history

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/rpc"
)

// Bounds of the load.
const (
	maxOpenPerApp = 4 // deployments of an app that have not ended, as far as their submitters know
	callWithin    = 12 * time.Second
	maxTries      = 40 // of a submission or a result whose outcome is unknown
	leaseWaitMS   = 200
	lastWithin    = 40 * time.Second // that reads may take once the faults are over
	thinkMost     = 60 * time.Millisecond
)

// Load is a number of clients that call at random. Apps must exist, and take commits.
type Load struct {
	Seed    uint64
	Apps    []string
	APIs    []*client.Client // of each server
	Clients int
	Workers []Worker
	Record  *Recorder

	mu   sync.Mutex
	open map[string][]string // keys by app, of deployments that may not have ended
	all  map[string][]string // keys by app
	made int
	shas map[string][2]string // app and key by commit
}

// Worker leases and builds. Build stores the artifact of a job and returns its digest.
type Worker struct {
	Name  string // as servers know it: name/slot
	RPC   *rpc.Client
	Build func(ctx context.Context, job *rpc.Job) (starling.Digest, error)
}

// Run calls until ctx ends, then reads every app once more: what was acknowledged must
// be there. It returns when all calls have ended.
func (l *Load) Run(ctx context.Context) error {
	l.open, l.all, l.shas = map[string][]string{}, map[string][]string{}, map[string][2]string{}
	for i, c := range l.APIs {
		l.APIs[i] = c.Consistent()
	}
	var clients sync.WaitGroup
	for i := range l.Clients {
		clients.Go(func() { l.client(ctx, i, rand.New(rand.NewPCG(l.Seed, uint64(i)))) })
	}
	for i, w := range l.Workers {
		clients.Go(func() { l.worker(ctx, w, l.Clients+i, rand.New(rand.NewPCG(l.Seed, uint64(1000+i)))) })
	}
	clients.Wait()
	return l.last(context.WithoutCancel(ctx))
}

// last reads everything once the faults are over.
func (l *Load) last(ctx context.Context) error {
	end := time.Now().Add(lastWithin)
	for _, app := range l.Apps {
		for _, k := range []Kind{List, Goal} {
			for try := 0; !l.read(ctx, 0, k, app, "", l.APIs[try%len(l.APIs)]); try++ {
				if time.Now().After(end) {
					return fmt.Errorf("%s of %s: no answer within %s of the last fault", k, app, lastWithin)
				}
				pause(ctx, 100*time.Millisecond)
			}
		}
	}
	return nil
}

func (l *Load) client(ctx context.Context, id int, r *rand.Rand) {
	for ctx.Err() == nil && !l.Record.full() {
		app, api := l.Apps[r.IntN(len(l.Apps))], l.APIs[r.IntN(len(l.APIs))]
		key := l.some(app, r)
		switch n := r.IntN(100); {
		case n < 35:
			l.submit(ctx, id, Submit, app, r)
		case n < 40:
			l.submit(ctx, id, Rollback, app, r)
		case n < 50 && key != "":
			l.cancel(ctx, id, app, key, r)
		case n < 70 && key != "":
			l.read(ctx, id, Show, app, key, api)
		case n < 85:
			l.read(ctx, id, Goal, app, "", api)
		default:
			l.read(ctx, id, List, app, "", api)
		}
		pause(ctx, rand.N(thinkMost))
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// some returns a key of an app, mostly of a deployment that has not ended; "" if there is none.
func (l *Load) some(app string, r *rand.Rand) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := l.open[app]
	if len(keys) == 0 || r.IntN(4) == 0 {
		keys = l.all[app]
	}
	if len(keys) == 0 {
		return ""
	}
	return keys[r.IntN(len(keys))]
}

// newKey returns a key, and the commit that stands for it; "" if the app has enough under way.
func (l *Load) newKey(app string) (key, sha string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open[app]) >= maxOpenPerApp {
		return "", ""
	}
	l.made++
	key = fmt.Sprintf("k%d", l.made)
	sum := sha1.Sum([]byte(app + key))
	sha = hex.EncodeToString(sum[:])
	l.open[app] = append(l.open[app], key)
	l.all[app] = append(l.all[app], key)
	l.shas[sha] = [2]string{app, key}
	return key, sha
}

// ended notes that a deployment is over.
func (l *Load) ended(app, key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[app] = slices.DeleteFunc(l.open[app], func(k string) bool { return k == key })
}

// submit asks for a deployment, again with the same key at another server while it is not
// known whether it was made.
func (l *Load) submit(ctx context.Context, id int, k Kind, app string, r *rand.Rand) {
	key, sha := l.newKey(app)
	if key == "" {
		return
	}
	v := l.persist(ctx, id, Call{Kind: k, App: app, Key: key}, func(ctx context.Context) (a Answer, err error) {
		api := l.APIs[r.IntN(len(l.APIs))]
		if k == Rollback {
			a.Deployment, err = api.Rollback(ctx, app, 0, key)
		} else {
			a.Deployment, err = api.Submit(ctx, starling.Submission{App: app, SHA: sha, IdempotencyKey: key})
		}
		return a, err
	})
	if v == Refused {
		l.ended(app, key)
	}
}

func (l *Load) cancel(ctx context.Context, id int, app, key string, r *rand.Rand) {
	dep := l.Record.id(key)
	if dep == "" {
		return // nobody knows yet what its submission made
	}
	v := l.persist(ctx, id, Call{Kind: Cancel, App: app, Key: key}, func(ctx context.Context) (a Answer, err error) {
		a.Deployment, err = l.APIs[r.IntN(len(l.APIs))].Act(ctx, dep, starling.ActionCancel)
		return a, err
	})
	if v == Done || v == Refused {
		l.ended(app, key)
	}
}

// read makes a consistent read and reports whether it was answered.
func (l *Load) read(ctx context.Context, id int, k Kind, app, key string, api *client.Client) bool {
	dep := l.Record.id(key)
	if k == Show && dep == "" {
		return true
	}
	v := l.call(ctx, id, Call{Kind: k, App: app, Key: key}, func(ctx context.Context) (a Answer, err error) {
		switch k {
		case Show:
			a.Deployment, err = api.Deployment(ctx, dep)
			if err == nil && a.Deployment.Phase.Terminal() {
				l.ended(app, key)
			}
		case Goal:
			a.Goal, err = api.Goal(ctx, app)
		case List:
			var ds []*starling.Deployment
			ds, err = api.Deployments(ctx, starling.DeploymentFilter{App: app, Limit: 1000})
			for _, d := range ds {
				a.Keys = append(a.Keys, d.IdempotencyKey)
				l.Record.know(d)
				if d.Phase.Terminal() {
					l.ended(app, d.IdempotencyKey)
				}
			}
		}
		return a, err
	})
	return v != Unknown
}

// call makes one call and keeps it, unless it never reached a server or was a read without an answer.
func (l *Load) call(ctx context.Context, id int, c Call, f func(context.Context) (Answer, error)) Verdict {
	from := time.Now()
	a, reached := l.try(ctx, c.Kind.keyed(), f)
	read := c.Kind == Show || c.Kind == Goal || c.Kind == List
	if reached && !(read && a.Verdict == Unknown) {
		l.Record.add(id, c, a, from)
	}
	return a.Verdict
}

func (l *Load) try(ctx context.Context, keyed bool, f func(context.Context) (Answer, error)) (a Answer, reached bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callWithin)
	defer cancel()
	a, err := f(ctx)
	v, reached := verdictOf(err, keyed)
	if v != Done {
		a = Answer{}
	}
	a.Verdict = v
	return a, reached
}

// persist makes a call that changes nothing if it is made twice, again until its outcome
// is known. All tries are kept as one call: only that a token is fenced does not tell
// whether an earlier try was not.
func (l *Load) persist(ctx context.Context, id int, c Call, f func(context.Context) (Answer, error)) Verdict {
	from, perhaps := time.Now(), false
	for range maxTries {
		begun := time.Now()
		a, reached := l.try(ctx, c.Kind.keyed(), f)
		switch {
		case a.Verdict == Fenced && perhaps:
			l.Record.add(id, c, Answer{Verdict: Unknown}, from)
			l.Record.add(id, c, a, begun)
			return a.Verdict
		case a.Verdict != Unknown:
			l.Record.add(id, c, a, from)
			return a.Verdict
		}
		perhaps = perhaps || reached
		pause(ctx, thinkMost)
		if ctx.Err() != nil {
			break
		}
	}
	if perhaps {
		l.Record.add(id, c, Answer{Verdict: Unknown}, from)
	}
	return Unknown
}

// worker leases jobs and ends them: most well, some badly, some it forgets.
func (l *Load) worker(ctx context.Context, w Worker, id int, r *rand.Rand) {
	for ctx.Err() == nil && !l.Record.full() {
		var job *rpc.Job
		v := l.call(ctx, id, Call{Kind: Lease, Worker: w.Name}, func(ctx context.Context) (a Answer, err error) {
			job, err = w.RPC.Lease(ctx, rpc.LeaseRequest{WaitMS: leaseWaitMS})
			if err == nil && job != nil {
				of := l.commit(job.SHA)
				a.App, a.Key, a.Token, a.Attempt = of[0], of[1], job.Lease, job.Attempt
			}
			return a, err
		})
		if v == Done && job != nil {
			l.build(ctx, w, id, job, r)
		}
		pause(ctx, rand.N(thinkMost))
	}
}

func (l *Load) commit(sha string) [2]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shas[sha]
}

func (l *Load) build(ctx context.Context, w Worker, id int, job *rpc.Job, r *rand.Rand) {
	of := l.commit(job.SHA)
	c := Call{Kind: Complete, App: of[0], Key: of[1], Token: job.Lease}
	luck := r.IntN(10)
	switch {
	case luck == 0:
		return // forgotten: the next lease takes it back
	case luck == 1:
		c.Kind = Fail
	default:
		var err error
		if c.Artifact, err = w.Build(ctx, job); err != nil {
			return // as good as forgotten
		}
	}
	pause(ctx, rand.N(thinkMost))
	l.persist(ctx, id, c, func(ctx context.Context) (Answer, error) {
		if c.Kind == Fail {
			return Answer{}, w.RPC.Fail(ctx, job.Deployment, rpc.FailRequest{Lease: job.Lease, Reason: "bad luck"})
		}
		return Answer{}, w.RPC.Complete(ctx, job.Deployment, rpc.CompleteRequest{
			Lease: job.Lease, Artifact: starling.Artifact{Digest: c.Artifact, Bytes: 1, Files: 1, Chunks: 1},
		})
	})
}

// HTTPClient returns what a client of the load should call with: no waits beyond callWithin, and
// no connection that is shared with another server.
func HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}, Timeout: callWithin}
}
