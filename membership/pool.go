package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

// Pool is this process's part in the gossip of its region or of its cell. Its methods are safe for concurrent use.
type Pool struct {
	conf   Config
	logger *slog.Logger
	serf   *serf.Serf
	addr   string // advertised gossip address

	ring *memberlist.Keyring // nil: plain text

	stop   context.CancelFunc
	owned  sync.WaitGroup // the pool's goroutines
	joined chan struct{}  // closed once another member was reached
	peers  []string       // what PeersFile holds

	mu      sync.Mutex
	changed chan struct{}
	seeds   []string // to join when alone
	news    news     // of cells; news.nudge is not guarded

	self    atomic.Pointer[string] // addr, once it is known
	doubled chan struct{}          // room for one: somebody else goes by this process's name
	failed  chan struct{}
	failure error // set before failed is closed

	tagMu    sync.Mutex    // held while an announcement waits to be sent
	node     starling.Node // what is announced, beside reserved
	reserved map[string]string
}

// Start opens the gossip sockets and begins to join. It returns before any join has
// succeeded: a loop owned by the pool tries Config.Join, with back-off, for as long as
// the pool lives. A port in use, a bad key and tags that are too long are errors.
func Start(conf Config) (*Pool, error) {
	if err := conf.check(); err != nil {
		return nil, err
	}
	return open(conf, conf.serfConfig())
}

func open(conf Config, sc *serf.Config) (*Pool, error) {
	p := &Pool{
		conf:     conf,
		logger:   conf.Logger,
		joined:   make(chan struct{}),
		changed:  make(chan struct{}),
		node:     conf.Node,
		reserved: make(map[string]string),
		seeds:    conf.Join,
		news:     news{next: make(chan struct{}), nudge: make(chan struct{}, 1)},
		doubled:  make(chan struct{}, 1),
		failed:   make(chan struct{}),
	}
	p.node.Tags = maps.Clone(conf.Node.Tags)
	tags, err := encodeTags(conf.Cluster, conf.Cell, &p.node, nil)
	if err != nil {
		return nil, err
	}
	sc.Tags = tags
	sc.Merge = gate{cluster: conf.Cluster, region: conf.Node.Region, cell: conf.Cell, seen: p.noteDouble}
	sc.Logger = newLog(conf.Logger)
	sc.MemberlistConfig.Logger = sc.Logger
	if p.ring, err = openKeyring(&conf); err != nil {
		return nil, err
	}
	sc.MemberlistConfig.Keyring = p.ring
	if p.peers, err = readPeers(conf.PeersFile); err != nil {
		return nil, err
	}
	events := make(chan serf.Event, maxEventQueue)
	sc.EventCh = events

	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	// The sockets come first: Serf starts goroutines that it does not stop when they fail.
	transport, err := p.listen(ctx, sc)
	if err != nil {
		cancel()
		return nil, err
	}
	if p.serf, err = serf.Create(sc); err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("start gossip on %s: %w", conf.Bind, err), transport.Shutdown())
	}
	local := p.serf.Memberlist().LocalNode()
	p.addr = net.JoinHostPort(local.Addr.String(), strconv.Itoa(int(local.Port)))
	p.self.Store(&p.addr)
	p.owned.Go(func() { p.watch(events) })
	if conf.Cell != "" {
		p.owned.Go(func() { p.keepAnnouncing(ctx) })
		p.owned.Go(func() { p.watchDouble(ctx) })
	}
	remembered := p.peers // keepPeers owns the field from here on
	p.owned.Go(func() { p.keepJoined(ctx, remembered) })
	if conf.PeersFile != "" {
		p.owned.Go(func() { p.keepPeers(ctx) })
	}
	return p, nil
}

// listen opens the gossip sockets and sets the advertised address in sc.
func (p *Pool) listen(ctx context.Context, sc *serf.Config) (*memberlist.NetTransport, error) {
	host, port, err := splitAddr("bind", p.conf.Bind, DefaultPort)
	if err != nil {
		return nil, err
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return nil, starling.Invalidf("bind", "%.100q: want an IP address and a port", p.conf.Bind)
	}
	t, err := bind(host, port, sc.Logger)
	if err != nil {
		return nil, err
	}
	ml := sc.MemberlistConfig
	ml.Transport = t
	ml.BindAddr, ml.BindPort = host, t.GetAutoBindPort()
	ml.AdvertisePort = ml.BindPort
	if p.conf.Advertise == "" {
		if ip.IsUnspecified() && ip.To4() == nil {
			return nil, errors.Join(starling.Invalidf("advertise", "is needed when gossip is bound to [::]"), t.Shutdown())
		}
		return t, nil
	}
	host, ml.AdvertisePort, err = splitAddr("advertise", p.conf.Advertise, ml.BindPort)
	if err == nil {
		ip, err = resolveIP(ctx, host)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("advertise gossip: %w", err), t.Shutdown())
	}
	ml.AdvertiseAddr = ip.String()
	return t, nil
}

func bind(host string, port int, l *log.Logger) (*memberlist.NetTransport, error) {
	tries := 1
	if port == 0 {
		tries = maxBindTries
	}
	for {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{host}, BindPort: port, Logger: l,
		})
		if err == nil {
			return t, nil
		}
		if tries--; tries > 0 {
			continue
		}
		at := net.JoinHostPort(host, strconv.Itoa(port))
		// memberlist hands on the text of the cause, not the cause.
		if strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
			return nil, fmt.Errorf("gossip port %s is in use by another process: %w", at, syscall.EADDRINUSE)
		}
		return nil, fmt.Errorf("open gossip port %s: %w", at, err)
	}
}

// watch drains Serf's events, which would stall it otherwise, and signals changes of members, at
// most once every changeCoalesce. It ends when Serf has shut down.
func (p *Pool) watch(events <-chan serf.Event) {
	timer := time.NewTimer(changeCoalesce)
	timer.Stop()
	pending := false
	for {
		select {
		case e := <-events:
			switch e := e.(type) {
			case serf.UserEvent:
				p.hear(e)
			case *serf.Query:
				p.answer(e)
			default:
				if !pending {
					pending = true
					timer.Reset(changeCoalesce)
				}
			}
		case <-timer.C:
			pending = false
			p.signal()
		case <-p.serf.ShutdownCh():
			timer.Stop()
			p.signal()
			return
		}
	}
}

func (p *Pool) signal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of a member, a few
// milliseconds after it, or when the pool is closed. Take it before reading Members.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Members returns every member, sorted by name: this process, those alive, and those
// that failed or left within the last hour, with Alive false. The caller owns the result.
func (p *Pool) Members() []starling.Node {
	members := p.serf.Members()
	out := make([]starling.Node, 0, len(members))
	for i := range members {
		out = append(out, decodeNode(&members[i]))
	}
	slices.SortFunc(out, func(a, b starling.Node) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (p *Pool) member(name string) (serf.Member, bool) {
	for _, m := range p.serf.Members() {
		if m.Name == name {
			return m, true
		}
	}
	return serf.Member{}, false
}

// State tells where a member is; it tells those that left from those that failed.
func (p *Pool) State(node string) State {
	m, ok := p.member(node)
	if !ok {
		return StateUnknown
	}
	return stateOf(m.Status)
}

// Tag returns a reserved tag of a member, empty if it has none.
func (p *Pool) Tag(node, key string) string {
	m, _ := p.member(node)
	return m.Tags[prefixOwned+key]
}

// Reserved returns all reserved tags of every member by its name, in one consistent read.
func (p *Pool) Reserved() map[string]map[string]string {
	out := make(map[string]map[string]string)
	for _, m := range p.serf.Members() {
		tags := make(map[string]string)
		for k, v := range m.Tags {
			if k, ok := strings.CutPrefix(k, prefixOwned); ok {
				tags[k] = v
			}
		}
		out[m.Name] = tags
	}
	return out
}

// SetTag announces a reserved tag of this process, as opposed to the free ones of its
// node; an empty value takes it back. It returns a field error when the tags grow too
// long. Announcing may lag behind by a few seconds; that is logged, not an error.
func (p *Pool) SetTag(key, value string) error {
	p.tagMu.Lock()
	defer p.tagMu.Unlock()
	if p.reserved[key] == value {
		return nil
	}
	reserved := maps.Clone(p.reserved)
	if value == "" {
		delete(reserved, key)
	} else {
		reserved[key] = value
	}
	tags, err := encodeTags(p.conf.Cluster, p.conf.Cell, &p.node, reserved)
	if err != nil {
		return err
	}
	p.reserved = reserved
	// The tags are in force from here on; an error says that the broadcast is still queued.
	if err := p.serf.SetTags(tags); err != nil {
		p.logger.Warn("announcing a tag takes long", "tag", key, "error", err)
	}
	return nil
}

// SetRoles announces other roles of this process.
func (p *Pool) SetRoles(roles []starling.Role) error {
	p.tagMu.Lock()
	defer p.tagMu.Unlock()
	if slices.Equal(p.node.Roles, roles) {
		return nil
	}
	node := p.node
	node.Roles = slices.Clone(roles)
	tags, err := encodeTags(p.conf.Cluster, p.conf.Cell, &node, p.reserved)
	if err != nil {
		return err
	}
	p.node = node
	if err := p.serf.SetTags(tags); err != nil {
		p.logger.Warn("announcing roles takes long", "error", err)
	}
	return nil
}

// Addr is the advertised gossip address, host:port.
func (p *Pool) Addr() string { return p.addr }

// ForceLeave declares a failed member gone for good. ErrNotFound: no such member;
// ErrConflict: it is alive.
func (p *Pool) ForceLeave(name string) error {
	switch p.State(name) {
	case StateUnknown:
		return fmt.Errorf("force-leave %.63q: no such member: %w", name, starling.ErrNotFound)
	case StateAlive:
		return fmt.Errorf("force-leave %s: it is alive, stop it first: %w", name, starling.ErrConflict)
	case StateLeft:
		return nil
	}
	if err := p.serf.RemoveFailedNode(name); err != nil {
		return fmt.Errorf("force-leave %s: %w", name, err)
	}
	return nil
}

// Leave tells the others that this process goes for good; it takes a second or two. Call Close after it.
func (p *Pool) Leave() error {
	if err := p.serf.Leave(); err != nil {
		return fmt.Errorf("leave the gossip pool: %w", err)
	}
	return nil
}

// Close stops gossip and waits for the pool's goroutines. Without Leave before it the
// others will find this process failed.
func (p *Pool) Close() error {
	p.stop()
	err := p.serf.Shutdown()
	if err == nil {
		p.owned.Wait()
		return nil
	}
	return fmt.Errorf("close the gossip pool: %w", err)
}
