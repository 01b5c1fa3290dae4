package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

// world is some regions with real Raft in one process, and workers, caches and
// machines that speak rpc to them.
type world struct {
	t       *testing.T
	ctx     context.Context
	wire    *wire
	regions map[string]*worldRegion
	actors  sync.WaitGroup

	hold    atomic.Bool // machines do not get beyond fetching
	failing atomic.Bool // machines fail to activate
}

type worldRegion struct {
	name    string
	members *memberList
	blobs   *memBlobs
	servers []*worldServer
}

type worldServer struct {
	*Server
	node starling.Node
	raft *raftnode.Node
	stop func()
	hang func() // stop, but go on accepting requests that nothing answers
}

// tcpLayer carries Raft over loopback TCP. Closing it closes what it accepted.
type tcpLayer struct {
	net.Listener
	mu       sync.Mutex
	accepted []net.Conn
}

func (l *tcpLayer) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.accepted = append(l.accepted, c)
		l.mu.Unlock()
	}
	return c, err
}

func (l *tcpLayer) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.accepted {
		_ = c.Close()
	}
	return err
}

func (*tcpLayer) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), timeout)
}

// newWorld starts the regions with so many servers each.
func newWorld(t *testing.T, servers map[string]int) *world {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, ctx: ctx, wire: newWire(), regions: map[string]*worldRegion{}}
	t.Cleanup(func() {
		cancel()
		w.actors.Wait()
		for _, r := range w.regions {
			for _, s := range r.servers {
				s.stop()
			}
		}
	})
	layers := map[string][]*tcpLayer{}
	addrs := map[string][]string{}
	for region, n := range servers {
		r := &worldRegion{name: region, members: newMemberList(), blobs: newMemBlobs()}
		w.regions[region] = r
		var nodes []starling.Node
		for i := range n {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			layers[region] = append(layers[region], &tcpLayer{Listener: l})
			addrs[region] = append(addrs[region], l.Addr().String())
			s := node(region, fmt.Sprintf("s%d", i), starling.RoleServer)
			s.Addr = l.Addr().String()
			nodes = append(nodes, s)
		}
		r.members.set(nodes...)
	}
	for region, r := range w.regions {
		for i, n := range r.members.Members() {
			w.startServer(r, n, layers[region][i], addrs)
		}
	}
	return w
}

func (w *world) startServer(r *worldRegion, n starling.Node, layer *tcpLayer, addrs map[string][]string) {
	w.t.Helper()
	logger := slog.New(slog.NewTextHandler(testLog{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	fsm := raftfsm.New(r.name)
	rn, err := raftnode.Open(raftnode.Config{
		Name: n.Name, Region: r.name, DataDir: w.t.TempDir(), Layer: layer, FSM: fsm,
		Peers: r.raftPeers, Changed: r.members.Changed, SetTag: func(k, v string) error { return r.setTag(n.Name, k, v) },
		BootstrapExpect: len(addrs[r.name]),
		Timing: raftnode.Timing{
			Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, LeaderLease: 200 * time.Millisecond,
			Commit: 10 * time.Millisecond, Reconcile: 100 * time.Millisecond,
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	others := map[string][]string{}
	for name, a := range addrs {
		if name != r.name {
			others[name] = a
		}
	}
	s, err := New(Config{
		Region: r.name, Name: n.Name, Raft: rn, FSM: fsm, Members: r.members, Blobs: r.blobs, Regions: others,
		DialControl: w.wire.dialer(identity(n)), DialCell: w.wire.dialer(identity(n)), Sign: envelope, SignFeed: unsigned, CellMax: 3, Settle: -1, NotifyLocal: true, Logger: logger.With("server", r.name+"/"+n.Name),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.wire.serve(w.t, n.Addr, s.RPC())
	var once sync.Once
	end := func(quit func(addr string)) {
		once.Do(func() {
			quit(n.Addr)
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("%s/%s: %v", r.name, n.Name, err)
			}
			if err := rn.Close(); err != nil {
				w.t.Errorf("close raft of %s/%s: %v", r.name, n.Name, err)
			}
		})
	}
	r.servers = append(r.servers, &worldServer{s, n, rn, func() { end(w.wire.cut) }, func() { end(w.wire.hang) }})
}

// testLog writes log lines to the test, as long as it runs.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// raftPeers and setTag are gossip as raftnode sees it.
func (r *worldRegion) raftPeers() []raftnode.Peer {
	var out []raftnode.Peer
	for _, n := range r.members.Members() {
		if n.Has(starling.RoleServer) {
			state := raftnode.PeerAlive
			if !n.Alive {
				state = raftnode.PeerFailed
			}
			tags := map[string]string{}
			for k, v := range n.Tags {
				if k, ok := strings.CutPrefix(k, "reserved."); ok {
					tags[k] = v
				}
			}
			out = append(out, raftnode.Peer{Name: n.Name, Addr: n.Addr, State: state, Tags: tags})
		}
	}
	return out
}

func (r *worldRegion) setTag(name, key, value string) error {
	r.members.mu.Lock()
	defer r.members.mu.Unlock()
	for i, n := range r.members.nodes {
		if n.Name == name {
			tags := map[string]string{"reserved." + key: value}
			for k, v := range n.Tags {
				if k != "reserved."+key {
					tags[k] = v
				}
			}
			r.members.nodes[i].Tags = tags
		}
	}
	close(r.members.changed)
	r.members.changed = make(chan struct{})
	return nil
}

func (r *worldRegion) leader() *worldServer {
	for _, s := range r.servers {
		if t, _ := s.leading(); t != nil {
			return s
		}
	}
	return nil
}

// led returns a region's leader, once there is one.
func (w *world) led(r *worldRegion) (l *worldServer) {
	w.t.Helper()
	w.eventually(r.name+" has a leader", func() bool {
		l = r.leader()
		return l != nil
	})
	return l
}

// join adds a node and runs its part until the world ends.
func (w *world) join(n starling.Node, act func(ctx context.Context, n starling.Node, c *rpc.Client) error) {
	r := w.regions[n.Region]
	r.members.set(append(r.members.Members(), n)...)
	w.act(n, act)
}

// act runs a node's part until the world ends.
func (w *world) act(n starling.Node, act func(ctx context.Context, n starling.Node, c *rpc.Client) error) {
	client := w.clientOf(n)
	w.actors.Go(func() {
		defer client.HTTP.CloseIdleConnections()
		for w.ctx.Err() == nil {
			if err := act(w.ctx, n, client); err != nil && w.ctx.Err() == nil {
				_ = sleep(w.ctx, 20*time.Millisecond) // a server or leader is gone: try again
			}
		}
	})
}

// clientOf returns a client of a node's region in its name.
func (w *world) clientOf(n starling.Node) *rpc.Client {
	p := &picker{r: w.regions[n.Region], transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return w.wire.dialer(identity(n))(ctx, addr)
		},
	}}
	return &rpc.Client{HTTP: &http.Client{Transport: p}}
}

// picker sends requests to one of a region's servers, another after each failure.
type picker struct {
	r         *worldRegion
	transport *http.Transport
	next      atomic.Int64
}

func (p *picker) RoundTrip(req *http.Request) (*http.Response, error) {
	addr := p.r.servers[int(p.next.Load())%len(p.r.servers)].node.Addr
	res, err := toServer{p.transport, addr}.RoundTrip(req)
	if err != nil {
		p.next.Add(1)
	}
	return res, err
}

// CloseIdleConnections is for http.Client's method of that name.
func (p *picker) CloseIdleConnections() { p.transport.CloseIdleConnections() }

// worker builds whatever it is asked to in no time.
func (w *world) worker(ctx context.Context, n starling.Node, c *rpc.Client) error {
	job, err := c.Lease(ctx, rpc.LeaseRequest{WaitMS: 5000})
	if err != nil || job == nil {
		return err
	}
	line := []byte("building " + job.SHA + "\n")
	if _, err := c.JobLog(ctx, job.Deployment, rpc.LogRequest{Lease: job.Lease, Data: line}); err != nil {
		return err
	}
	if err := c.Heartbeat(ctx, job.Deployment, rpc.HeartbeatRequest{Lease: job.Lease}); err != nil {
		return err
	}
	if err := w.regions[n.Region].blobs.Put(ctx, starling.DigestOf(line), line); err != nil {
		return err
	}
	return c.Complete(ctx, job.Deployment, rpc.CompleteRequest{
		Lease: job.Lease, NewBytes: 100, Log: starling.DigestOf(line),
		Artifact: starling.Artifact{Digest: w.regions[n.Region].blobs.built(job.SHA), Bytes: 100, Files: 1, Chunks: 4},
	})
}

// cacheActor returns a cache that holds at once what it is asked to hold.
func (w *world) cacheActor() func(context.Context, starling.Node, *rpc.Client) error {
	var index uint64
	return func(ctx context.Context, n starling.Node, c *rpc.Client) error {
		wants, err := c.Wants(ctx, index, time.Second)
		if err != nil {
			return err
		}
		report := rpc.CacheReport{Name: n.Name}
		for _, x := range wants.Wants {
			h := rpc.CacheHold{Artifact: x.Artifact, ChunksDone: 4, ChunksTotal: 4, Complete: true, Caches: []string{n.Name}}
			switch {
			case n.Region == "us": // where the worker put it
			case len(x.Sources) > 0:
				h.WANBytes = 100
			default:
				h.ChunksDone, h.Complete = 0, false // nowhere to pull from yet
			}
			report.Holds = append(report.Holds, h)
		}
		if err := c.ReportCache(ctx, report); err != nil {
			return err
		}
		index = wants.Index
		return nil
	}
}

// machineActor returns a machine that obeys its goals at once.
func (w *world) machineActor() func(context.Context, starling.Node, *rpc.Client) error {
	var index uint64
	return func(ctx context.Context, n starling.Node, c *rpc.Client) error {
		goals, err := c.Goals(ctx, index, "", 200*time.Millisecond)
		if err != nil {
			return err
		}
		var reports []starling.MachineReport
		for _, g := range goals.Goals {
			r := starling.MachineReport{Node: n.Name, App: g.App, Generation: g.Generation, State: starling.MachineFetching}
			if g.Stage.AtLeast(starling.StageFetch) && !w.hold.Load() {
				r.State, r.Bytes = starling.MachineStaged, starling.Bytes{CacheOut: 10, Peer: 90}
			}
			if g.Stage.AtLeast(starling.StageActivate) && !g.Holds(n.Region) && g.Cutoff.Selects(n.Name, g.Deployment) && r.State == starling.MachineStaged {
				r.State, r.Running = starling.MachineHealthy, g.Artifact
				if w.failing.Load() {
					r.State, r.Running, r.Reason = starling.MachineFailed, g.Previous, "health check: connection refused"
				}
			}
			reports = append(reports, r)
		}
		if err := c.ReportMachine(ctx, reports); err != nil {
			return err
		}
		index = goals.Index
		return nil
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	w.within(2*time.Minute, what, ok) // the machine may be busy with much else
}

func (w *world) within(most time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(most); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within %s", what, most)
		}
	}
}

// home calls f at the leader of us, again if the lead changes meanwhile.
func (w *world) home(f func(s *Server) error) {
	w.t.Helper()
	var last error
	w.eventually("a call at the home's leader", func() bool {
		l := w.regions["us"].leader()
		if l == nil {
			return false
		}
		last = f(l.Server)
		if last != nil && !errors.Is(last, starling.ErrUnavailable) && !errors.Is(last, starling.ErrNotLeader) {
			w.t.Fatal(last)
		}
		return last == nil
	})
}

func (w *world) submit(sub starling.Submission) string {
	var id string
	w.home(func(s *Server) error {
		d, _, err := s.Submit(w.ctx, "ann", sub)
		if err == nil {
			id = d.ID
		}
		return err
	})
	return id
}

// await waits until a deployment is in one of the phases and returns it as its home's leader has it.
func (w *world) await(id string, phases ...starling.Phase) *starling.Deployment {
	w.t.Helper()
	var d *starling.Deployment
	var ok bool
	w.eventually(fmt.Sprintf("%s in %v", id, phases), func() bool {
		l := w.regions["us"].leader()
		if l == nil {
			return false
		}
		d, ok = l.Deployment(id)
		if ok && d.Phase.Terminal() && !slices.Contains(phases, d.Phase) {
			w.t.Fatalf("%s is %s: %s", id, d.Phase, d.Reason)
		}
		return ok && slices.Contains(phases, d.Phase)
	})
	return d
}
