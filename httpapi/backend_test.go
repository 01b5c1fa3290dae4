package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// backend is a server of one, on the real state machine: what it proposes is applied at
// once. Blobs and logs are maps.
type backend struct {
	region string
	fsm    *raftfsm.FSM

	mu        sync.Mutex
	index     uint64
	chunks    map[starling.Digest][]byte
	manifests map[starling.Digest][]byte
	logs      map[string][]byte
	logEnded  map[string]bool
	logMore   chan struct{}
	leader    string
	fail      error // of every change
	confirmed int   // calls of Confirm
	unsure    error // its answer
	removed   []string
	progress  chan []starling.DeploymentProgress

	to func(app, deployment string) (http.RoundTripper, error) // nil: all is here
}

var _ Backend = (*backend)(nil)

func newBackend(region string) *backend {
	return &backend{
		region: region, fsm: raftfsm.New(region), leader: "s1",
		chunks: map[starling.Digest][]byte{}, manifests: map[starling.Digest][]byte{},
		logs: map[string][]byte{}, logEnded: map[string]bool{}, logMore: make(chan struct{}), progress: make(chan []starling.DeploymentProgress),
	}
}

func (b *backend) propose(actor string, t raftfsm.Type, payload any) (raftfsm.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return raftfsm.Result{}, b.fail
	}
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

func (b *backend) Route(_ context.Context, app, deployment string) (http.RoundTripper, error) {
	if b.to == nil {
		return nil, nil
	}
	return b.to(app, deployment)
}

func (b *backend) Confirm(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.confirmed++
	return b.unsure
}

func (b *backend) Goal(app string) (*starling.Goal, bool) { return b.fsm.View().Goal(app) }

func (b *backend) App(name string) (*starling.App, bool) { return b.fsm.View().App(name) }
func (b *backend) Apps() []*starling.App                 { return b.fsm.View().Apps() }
func (b *backend) Releases(app string) []*starling.Release {
	return b.fsm.View().Releases(app)
}

func (b *backend) ApplyApp(_ context.Context, actor string, app starling.App, ifRevision *uint64) (*starling.App, error) {
	r, err := b.propose(actor, raftfsm.TypeAppApply, raftfsm.AppApply{App: app, IfRevision: ifRevision})
	return r.App, err
}

func (b *backend) Deployment(id string) (*starling.Deployment, bool) {
	return b.fsm.View().Deployment(id)
}

func (b *backend) Deployments(f starling.DeploymentFilter) []*starling.Deployment {
	return b.fsm.View().Deployments(f)
}

func (b *backend) submit(actor string, s raftfsm.Submit) (*starling.Deployment, bool, error) {
	s.ID, s.Regions = fmt.Sprintf("d-%d", b.fsm.View().Index()+1), []string{b.region}
	r, err := b.propose(actor, raftfsm.TypeSubmit, s)
	return r.Deployment, r.Created, err
}

func (b *backend) Submit(_ context.Context, actor string, s starling.Submission) (*starling.Deployment, bool, error) {
	return b.submit(actor, raftfsm.Submit{App: s.App, SHA: s.SHA, Artifact: s.Artifact, Priority: s.Priority, IdempotencyKey: s.IdempotencyKey, From: s.From})
}

func (b *backend) Rollback(_ context.Context, actor, app string, to uint64, key string, from starling.Origin) (*starling.Deployment, bool, error) {
	return b.submit(actor, raftfsm.Submit{App: app, Rollback: true, RollbackTo: to, IdempotencyKey: key, From: from})
}

func (b *backend) Act(_ context.Context, actor, id string, a starling.Action, o starling.ActionOptions) (*starling.Deployment, error) {
	var r raftfsm.Result
	var err error
	switch a {
	case starling.ActionCancel:
		r, err = b.propose(actor, raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled, Reason: "cancelled by " + actor})
	case starling.ActionAbort:
		r, err = b.propose(actor, raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseFailed, Reason: "aborted by " + actor + ": " + o.Reason})
	case starling.ActionApprove:
		return b.Approve(context.Background(), actor, id, starling.Digest{})
	case starling.ActionPromote:
		r, err = b.propose(actor, raftfsm.TypePromote, raftfsm.Promote{ID: id, All: o.All})
	default:
		r, err = b.propose(actor, raftfsm.TypePause, raftfsm.Pause{ID: id, Paused: a == starling.ActionPause})
	}
	return r.Deployment, err
}

func (b *backend) History(f starling.DeploymentFilter) ([]starling.HistoryEntry, error) {
	out := []starling.HistoryEntry{}
	for _, d := range b.Deployments(f) {
		out = append(out, starling.HistoryEntry{ID: d.ID, Actor: d.Actor, From: d.From, Phase: d.Phase, SHA: d.SHA})
	}
	return out, nil
}

func (b *backend) Diff(app, from, to string) (*starling.DeploymentDiff, error) {
	for _, id := range []string{from, to} {
		if d, ok := b.Deployment(id); !ok || d.App != app {
			return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
		}
	}
	return &starling.DeploymentDiff{App: app, From: from, To: to}, nil
}

func (b *backend) Provenance(_ context.Context, id string) (*starling.Provenance, error) {
	d, ok := b.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
	}
	return &starling.Provenance{Deployment: id, App: d.App, SHA: d.SHA}, nil
}

func (b *backend) Readiness(_ context.Context, app string) ([]starling.ReleaseStatus, error) {
	var out []starling.ReleaseStatus
	for _, r := range b.Releases(app) {
		out = append(out, starling.ReleaseStatus{Release: *r, Readiness: &starling.Readiness{Machines: 2, Held: 1, Share: 0.5}})
	}
	return out, nil
}

func (b *backend) Plan(_ context.Context, req starling.PlanRequest) (*starling.Plan, error) {
	app, ok := b.App(req.App)
	if req.Spec != nil {
		app, ok = req.Spec, true
	}
	if !ok {
		return nil, fmt.Errorf("app %s: %w", req.App, starling.ErrNotFound)
	}
	p := &starling.Plan{App: app.Name, SHA: req.SHA, Artifact: req.Artifact, Spec: app.SpecDigest(), Revision: app.Revision}
	p.ID = p.Hash()
	return p, nil
}

func (b *backend) DeploymentPlan(_ context.Context, id string) (*starling.Plan, error) {
	d, ok := b.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
	}
	app, _ := b.App(d.App)
	p := &starling.Plan{App: d.App, SHA: d.SHA, Artifact: d.Artifact, Spec: d.Spec.SpecDigest(), Deployment: id, Revision: app.Revision}
	p.ID = p.Hash()
	return p, nil
}

func (b *backend) Approve(ctx context.Context, actor, id string, plan starling.Digest) (*starling.Deployment, error) {
	cmd := raftfsm.Approve{ID: id, Plan: plan}
	if p, err := b.DeploymentPlan(ctx, id); err == nil && !plan.IsZero() {
		if cmd.Revision = p.Revision; plan != p.ID {
			cmd.Revision++ // as if the app had changed
		}
	}
	r, err := b.propose(actor, raftfsm.TypeApprove, cmd)
	return r.Deployment, err
}

func (b *backend) Why(_ context.Context, id, machine, region string) (*starling.Why, error) {
	d, ok := b.Deployment(id)
	if !ok {
		return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
	}
	w := &starling.Why{Deployment: id, Phase: d.Phase, WaitsFor: []string{"no worker had a free slot"}, Regions: []starling.RegionWhy{}}
	switch {
	case machine == "m1":
		w.Account = &starling.Account{Node: machine, Region: b.region, Sources: []starling.SourceAccount{{Name: "m2", Kind: starling.SourceRack, Bytes: 7}}}
	case machine != "":
		return nil, fmt.Errorf("machine %s of region %q: %w", machine, region, starling.ErrNotFound)
	}
	return w, nil
}

func (b *backend) DeploymentCurve(_ context.Context, id string) ([]starling.CurvePoint, error) {
	if _, ok := b.Deployment(id); !ok {
		return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
	}
	return []starling.CurvePoint{{AtMS: 5, Progress: starling.Progress{0, 1}}}, nil
}

func (b *backend) Caches() []starling.CacheStatus {
	return []starling.CacheStatus{{Name: "c1", Alive: true, Heard: true, UsedBytes: 5, MaxBytes: 10}}
}

func (b *backend) DeploymentCells(_ context.Context, id, region string) ([]starling.CellProgress, error) {
	if _, ok := b.Deployment(id); !ok {
		return nil, fmt.Errorf("deployment %s: %w", id, starling.ErrNotFound)
	}
	if region != "" && region != b.region {
		return nil, fmt.Errorf("region %s: %w", region, starling.ErrNotFound)
	}
	return []starling.CellProgress{{Region: b.region, Cell: "c1", Machines: 3, Alive: 2, Counts: starling.Counts{Target: 2, Absent: 1}}}, nil
}

func (b *backend) writeLog(id, text string, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs[id] = append(b.logs[id], text...)
	b.logEnded[id] = ended
	close(b.logMore)
	b.logMore = make(chan struct{})
}

func (b *backend) BuildLog(ctx context.Context, id string, offset int64) (starling.LogPart, error) {
	for {
		b.mu.Lock()
		data, ended, more := b.logs[id], b.logEnded[id], b.logMore
		b.mu.Unlock()
		if offset < int64(len(data)) || ended {
			at := min(offset, int64(len(data)))
			return starling.LogPart{Data: bytes.Clone(data[at:]), Next: int64(len(data)), Done: ended}, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return starling.LogPart{Next: offset}, nil
		}
	}
}

// Log has one section.
func (b *backend) Log(ctx context.Context, id string, at starling.LogPlace) (starling.LogNews, error) {
	part, err := b.BuildLog(ctx, id, at["build.1"])
	news := starling.LogNews{Done: part.Done}
	if len(part.Data) > 0 {
		news.Chunks = []starling.LogChunk{{Section: "build.1", Offset: at["build.1"], Data: part.Data}}
	}
	return news, err
}

func (b *backend) Artifact(d starling.Digest) (*starling.Artifact, bool) {
	return b.fsm.View().Artifact(d)
}
func (b *backend) Artifacts() []*starling.Artifact { return b.fsm.View().Artifacts() }

func (b *backend) MissingChunks(_ context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []starling.Digest
	for _, d := range ds {
		if b.chunks[d] == nil {
			out = append(out, d)
		}
	}
	return out, nil
}

func (b *backend) PutChunk(_ context.Context, d starling.Digest, data []byte) error {
	if starling.DigestOf(data) != d {
		return fmt.Errorf("chunk %s: %w", d, starling.ErrCorrupt)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks[d] = bytes.Clone(data)
	return nil
}

func (b *backend) RegisterArtifact(_ context.Context, actor, app string, manifest []byte) (*starling.Artifact, error) {
	m, err := starling.DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	d := starling.DigestOf(manifest)
	r, err := b.propose(actor, raftfsm.TypeArtifactRegister, raftfsm.ArtifactRegister{Artifact: starling.Artifact{
		Digest: d, App: app, Bytes: m.Bytes(), Files: len(m.Files), Chunks: len(m.Chunks), Actor: actor,
	}})
	if err == nil {
		b.mu.Lock()
		b.manifests[d] = manifest
		b.mu.Unlock()
	}
	return r.Artifact, err
}

func (b *backend) blob(m map[starling.Digest][]byte, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if data := m[d]; data != nil {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", d, starling.ErrNotFound)
}

func (b *backend) Manifest(_ context.Context, d starling.Digest) ([]byte, error) {
	return b.blob(b.manifests, d)
}
func (b *backend) Chunk(_ context.Context, d starling.Digest) ([]byte, error) {
	return b.blob(b.chunks, d)
}

func (b *backend) Authenticate(secret string) (*starling.Token, error) {
	t, ok := b.fsm.View().TokenByHash(starling.DigestOf([]byte(secret)))
	if !ok || t.Revoked {
		return nil, fmt.Errorf("the token is not known: %w", starling.ErrForbidden)
	}
	return t, nil
}

func (b *backend) token(actor string, t raftfsm.Type, n starling.NewToken) (*starling.IssuedToken, error) {
	secret := fmt.Sprintf("st_secret-of-%s", n.Name)
	k := starling.Token{ID: "t-" + n.Name, Name: n.Name, Role: n.Role, Hash: starling.DigestOf([]byte(secret))}
	var payload any = raftfsm.TokenCreate{Token: k}
	if t == raftfsm.TypeTokenBootstrap {
		payload = raftfsm.TokenBootstrap{Token: k}
	}
	r, err := b.propose(actor, t, payload)
	if err != nil {
		return nil, err
	}
	return &starling.IssuedToken{Token: *r.Token, Secret: secret}, nil
}

func (b *backend) BootstrapToken(context.Context) (*starling.IssuedToken, error) {
	return b.token("bootstrap", raftfsm.TypeTokenBootstrap, starling.NewToken{Name: "bootstrap", Role: starling.ACLOperator})
}

func (b *backend) CreateToken(_ context.Context, actor string, n starling.NewToken) (*starling.IssuedToken, error) {
	return b.token(actor, raftfsm.TypeTokenCreate, n)
}

func (b *backend) Tokens() []*starling.Token { return b.fsm.View().Tokens() }

func (b *backend) RevokeToken(_ context.Context, actor, id string) error {
	_, err := b.propose(actor, raftfsm.TypeTokenRevoke, raftfsm.TokenRevoke{ID: id})
	return err
}

func (b *backend) Leader() starling.LeaderStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return starling.LeaderStatus{Region: b.region, Name: b.leader, Self: b.leader != "", Index: b.fsm.View().Index()}
}

func (b *backend) Region(name string) (*starling.RegionDetail, bool) {
	if name != b.region {
		return nil, false
	}
	return &starling.RegionDetail{RegionStatus: starling.RegionStatus{Name: name, Local: true, Servers: []string{}}, Apps: []string{}, Unseen: []*starling.Unseen{}}, true
}

func (b *backend) TakeOver(_ context.Context, actor, region string, force bool) (*starling.Takeover, error) {
	if !force {
		return nil, fmt.Errorf("take over %s: %w: it answered a moment ago", region, starling.ErrConflict)
	}
	r, err := b.propose(actor, raftfsm.TypeTakeover, raftfsm.Takeover{From: region, Epoch: b.fsm.View().NextEpoch(region)})
	return r.Takeover, err
}

func (b *backend) RegionStatuses() []starling.RegionStatus {
	return []starling.RegionStatus{{Name: b.region, Local: true, Leader: "s1", Seen: true}}
}

func (b *backend) WaitIndex(ctx context.Context, index uint64) uint64 {
	for {
		v := b.fsm.View()
		if v.Index() > index {
			return v.Index()
		}
		select {
		case <-b.fsm.Changed(v.Index()):
		case <-ctx.Done():
			return b.fsm.View().Index()
		}
	}
}

func (b *backend) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	return b.fsm.View().EventsAfter(index, n, limit)
}

// FollowProgress tells of what the test puts in b.progress.
func (b *backend) FollowProgress(ctx context.Context, tell func([]starling.DeploymentProgress)) {
	for {
		select {
		case news := <-b.progress:
			tell(news)
		case <-ctx.Done():
			return
		}
	}
}

func (b *backend) RaftPeers() ([]starling.RaftPeer, error) {
	return []starling.RaftPeer{{Name: "s1", Addr: "10.0.0.1:7471", Voter: true, Leader: true}}, b.fail
}

func (b *backend) RemovePeer(_ context.Context, _, name string) error {
	if name != "s9" {
		return fmt.Errorf("server %s: %w", name, starling.ErrNotFound)
	}
	b.removed = append(b.removed, name)
	return nil
}

func (b *backend) TransferLeadership(context.Context, string) error {
	return fmt.Errorf("there is no other server: %w", starling.ErrConflict)
}

func (b *backend) Health() (starling.RaftHealth, error) {
	return starling.RaftHealth{Healthy: true, FailureTolerance: 0, Servers: []starling.RaftServerHealth{{Name: "s1", Voter: true, Healthy: true}}}, b.fail
}

func (b *backend) LeaveServer(context.Context, string) error {
	return fmt.Errorf("it is the only server with a vote: %w", starling.ErrConflict)
}

func (b *backend) SaveSnapshot(context.Context) (func(io.Writer) error, error) {
	return b.fsm.View().WriteSnapshot, b.fail
}

func (b *backend) RestoreSnapshot(_ context.Context, actor string, r io.Reader) (*starling.SnapshotInfo, error) {
	v, err := b.fsm.View().Restored(r, time.Now(), actor)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := v.WriteSnapshot(&out); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index = v.Index()
	if err := b.fsm.Restore(io.NopCloser(&out)); err != nil {
		return nil, err
	}
	info, err := v.Summary()
	return &info, err
}

func (b *backend) JoinServers(_ context.Context, addrs []string) (int, error) { return len(addrs), nil }
func (b *backend) ForceLeave(_ context.Context, name string) error {
	if name == "m1" {
		return fmt.Errorf("%s is alive: %w", name, starling.ErrConflict)
	}
	return nil
}

// fixture makes an app "hello" and a deployment of it.
func fixture(t *testing.T, b *backend) *starling.Deployment {
	t.Helper()
	app := starling.App{Name: "hello", Source: starling.SourceSpec{Git: "https://git.example/hello.git"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.SetDefaults()
	if _, err := b.ApplyApp(t.Context(), "test", app, nil); err != nil {
		t.Fatal(err)
	}
	d, _, err := b.Submit(t.Context(), "test", starling.Submission{App: "hello", SHA: sha})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const sha = "0123456789abcdef0123456789abcdef01234567"

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
