// Package world runs a whole Starling on one computer: regions of servers, caches,
// workers and machines, each a real `starling agent` process with its own data
// directory, configuration and log. The demo, the benchmarks and the end-to-end
// tests stand on it.
package world

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/pki"
)

// World is a set of processes. Its methods are for one goroutine.
type World struct {
	Dir   string
	Procs []*Proc
	// Told is told how many of all processes of its region a server sees, while Ready waits; nil: nobody is.
	Told func(server string, seen, all int)

	bin   string
	size  Size
	keys  map[string]string // gossip keys, by region
	ca    *pki.CA
	spawn chan func()    // run by one locked thread, so that Pdeathsig is ours for life
	alive sync.WaitGroup // one for each running process
	ports ports          // none where processes have hosts of their own
}

// Proc is one process of a world. Its ports stay the same over restarts.
type Proc struct {
	Name, Region string
	Role         starling.Role
	HTTP         string // address of the API; servers only
	AppPort      int    // PORT in the environment of a machine's releases
	Config, Log  string // files
	Bin          string // program of the next start; empty: the world's

	gossip, quic string
	host         Host

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// Size says how large a world is: Servers, Caches and Workers in each region,
// Machines dealt to the regions in turn.
type Size struct {
	Regions, Servers, Caches, Workers, Machines int

	Together bool // every server is a cache as well
	CapMbit  int  // upload and download limit of each cache and machine; 0: none

	TakeoverAfter string // of each server; empty: off
	CellMax       int    // machines of a cell before it is split; 0: the default
	CellQuiet     string // that a cell must have been as it is before it is split or merged; empty: the default
	// Enrol lets machines enrol at the servers with join tokens.
	Enrol bool
}

// Client returns a client of a server's API.
func (p *Proc) Client() (*client.Client, error) {
	cfg := client.Config{Addr: "http://" + p.HTTP}
	if p.host.Dial != nil {
		cfg.HTTP = &http.Client{Transport: &http.Transport{DialContext: p.host.Dial}}
	}
	return client.New(cfg)
}

// procs is how many processes that is.
func (s Size) procs() int {
	return s.Regions*(s.Servers+s.Caches+s.Workers) + s.Machines
}

// Host is where a process runs, with all its ports free: entered by putting Prefix
// before the command line. Others reach it at IP; its API, on its own loopback, by Dial.
type Host struct {
	IP     string
	Prefix []string
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Check refuses sizes that one computer is not for.
func (s Size) Check() error {
	switch {
	case s.Regions < 1 || s.Regions > 10:
		return starling.Invalidf("regions", "%d is not within 1 and 10", s.Regions)
	case s.Servers != 1 && s.Servers != 3 && s.Servers != 5:
		return starling.Invalidf("servers", "%d: use 1, 3 or 5", s.Servers)
	case s.Caches < 0 || s.Caches > 10 || s.Workers < 0 || s.Workers > 10:
		return starling.Invalidf("caches", "caches and workers must be within 0 and 10")
	case s.Machines < 0 || s.Machines > 200:
		return starling.Invalidf("machines", "%d is not within 0 and 200", s.Machines)
	}
	return nil
}

// certTTL is how long a world's certificates are valid.
const certTTL = 30 * 24 * time.Hour

// How long a process may take to stop before it is killed, and to be gone then: on a busy computer
// both wait for a processor.
const (
	stopGrace = 30 * time.Second
	killGrace = time.Minute
)

// New plans a world of bin's processes in the empty folder dir and writes
// certificates and configurations; Start runs it. With hosts, each process has the one
// of its place in the order of Procs: servers, caches and workers of each region, then
// the machines. Without, all share the loopback.
func New(bin, dir string, size Size, hosts ...Host) (*World, error) {
	if err := size.Check(); err != nil {
		return nil, err
	}
	if len(hosts) > 0 && len(hosts) != size.procs() {
		return nil, fmt.Errorf("%d hosts for %d processes", len(hosts), size.procs())
	}
	w := &World{Dir: dir, bin: bin, size: size, keys: map[string]string{}, spawn: make(chan func())}
	for r := range size.Regions {
		region := fmt.Sprintf("r%d", r+1)
		for _, part := range []struct {
			role  starling.Role
			count int
		}{{starling.RoleServer, size.Servers}, {starling.RoleCache, size.Caches}, {starling.RoleWorker, size.Workers}} {
			for i := range part.count {
				w.add(region, fmt.Sprintf("%s-%s-%d", region, part.role, i+1), part.role)
			}
		}
	}
	for i := range size.Machines {
		region := fmt.Sprintf("r%d", i%size.Regions+1)
		w.add(region, fmt.Sprintf("%s-machine-%d", region, i/size.Regions+1), starling.RoleMachine)
	}
	if len(hosts) > 0 {
		w.settle(hosts)
	} else if err := w.assignPorts(w.Procs); err != nil {
		w.ports.release()
		return nil, err
	}
	if err := w.writeFiles(); err != nil {
		w.ports.release()
		return nil, err
	}
	go w.spawner()
	return w, nil
}

// spawner starts processes on one thread that lives until close: the kernel ends
// them when that thread does, so that even kill -9 of this process leaves none behind.
func (w *World) spawner() {
	runtime.LockOSThread()
	for f := range w.spawn {
		f()
	}
}

func (w *World) add(region, name string, role starling.Role) {
	dir := filepath.Join(w.Dir, name)
	w.Procs = append(w.Procs, &Proc{Name: name, Region: region, Role: role,
		Config: filepath.Join(dir, "agent.hcl"), Log: filepath.Join(dir, "agent.log")})
}

// WithRole returns the processes that play r.
func (w *World) WithRole(r starling.Role) []*Proc {
	return slices.DeleteFunc(slices.Clone(w.Procs), func(p *Proc) bool { return p.Role != r })
}

// Named returns the process with a name, or nil.
func (w *World) Named(name string) *Proc {
	for _, p := range w.Procs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// settle puts each process on its host, with the usual ports.
func (w *World) settle(hosts []Host) {
	for i, p := range w.Procs {
		p.host, p.AppPort = hosts[i], 8080
		p.HTTP = "127.0.0.1:7470"
		p.quic = net.JoinHostPort(p.host.IP, "7471")
		p.gossip = net.JoinHostPort(p.host.IP, "7472")
	}
}

// assignPorts gives processes loopback ports of their own, for the world's life.
func (w *World) assignPorts(procs []*Proc) error {
	for _, p := range procs {
		var app int
		var err error
		for _, to := range []*string{&p.HTTP, &p.gossip, &p.quic} {
			var port int
			if port, err = w.ports.take(); err != nil {
				return err
			}
			*to = loopback(port)
		}
		if app, err = w.ports.take(); err != nil {
			return err
		}
		p.AppPort, p.host.IP = app, "127.0.0.1"
	}
	return nil
}

func gossipKey() string {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // of settle or loopback: always has one
	return port
}

func (w *World) writeFiles() error {
	ca, err := pki.NewCA("dev", time.Now())
	if err != nil {
		return err
	}
	w.ca = ca
	for _, p := range w.Procs {
		if err := w.certify(p); err != nil {
			return err
		}
	}
	if w.size.Enrol {
		if err := w.letEnrol(); err != nil {
			return err
		}
	}
	return w.Configure()
}

// certify makes a process's folder with its certificate.
func (w *World) certify(p *Proc) error {
	req := pki.Request{Name: p.Name, Region: p.Region, Roles: []starling.Role{p.Role}, TTL: certTTL}
	if w.size.Together && p.Role == starling.RoleServer {
		req.Roles = append(req.Roles, starling.RoleCache)
	}
	cert, key, err := w.ca.Issue(req, time.Now())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.Config), 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"ca.pem": w.ca.CertPEM(), "node.pem": cert, "node-key.pem": key} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(p.Config), name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// letEnrol gives the servers of each region that with which they sign machines.
func (w *World) letEnrol() error {
	signers := map[string][2][]byte{}
	for _, p := range w.WithRole(starling.RoleServer) {
		s, ok := signers[p.Region]
		if !ok {
			var err error
			if s[0], s[1], err = w.ca.IssueEnroller(p.Region, certTTL, time.Now()); err != nil {
				return err
			}
			signers[p.Region] = s
		}
		for i, name := range []string{"enrol.pem", "enrol-key.pem"} {
			if err := os.WriteFile(filepath.Join(filepath.Dir(p.Config), name), s[i], 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Configure writes the configuration of every process, in which the servers of Procs
// stand. A process reads it when it starts.
func (w *World) Configure() error {
	for _, p := range w.Procs {
		if w.keys[p.Region] == "" {
			w.keys[p.Region] = gossipKey()
		}
		if err := os.WriteFile(p.Config, w.configFor(p, w.keys[p.Region], w.size), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Forget takes a process that has ended out of the world: a computer that is gone.
func (w *World) Forget(p *Proc) {
	w.Procs = slices.DeleteFunc(w.Procs, func(q *Proc) bool { return q == p })
}

// AddServer plans one more server of a region on the loopback, with an empty data
// directory. Configure tells the others of it, StartOne runs it.
func (w *World) AddServer(region, name string) (*Proc, error) {
	w.add(region, name, starling.RoleServer)
	p := w.Procs[len(w.Procs)-1]
	if err := w.assignPorts([]*Proc{p}); err != nil {
		return nil, err
	}
	if err := w.certify(p); err != nil {
		return nil, err
	}
	return p, w.Configure()
}

// Issue makes credentials for a program that takes part without being one of Procs.
func (w *World) Issue(req pki.Request) (*pki.Credentials, error) {
	cert, key, err := w.ca.Issue(req, time.Now())
	if err != nil {
		return nil, err
	}
	return pki.Load(w.ca.CertPEM(), cert, key)
}

func (w *World) configFor(p *Proc, gossipKey string, size Size) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	var join, servers []string
	regions := map[string][]string{}
	for _, s := range w.WithRole(starling.RoleServer) {
		if s.Region == p.Region {
			join = append(join, strconv.Quote(s.gossip))
			servers = append(servers, strconv.Quote(s.quic))
		} else {
			regions[s.Region] = append(regions[s.Region], strconv.Quote(s.quic))
		}
	}
	line("name = %q", p.Name)
	line("region = %q", p.Region)
	line("zone = %q", "a")
	line("rack = %q", "k"+p.Name[len(p.Name)-1:])
	line("data_dir = %q", "data")
	line("bind = %q", p.host.IP)
	line("join = [%s]", strings.Join(join, ", "))
	if p.Role == starling.RoleMachine {
		line("servers = [%s]", strings.Join(servers, ", "))
	}
	if p.Role == starling.RoleServer {
		line("regions = {")
		for r, addrs := range regions {
			line("  %q = [%s]", r, strings.Join(addrs, ", "))
		}
		line("}")
	}
	line("ports {\n  http = %s\n  quic = %s\n  gossip = %s\n}", portOf(p.HTTP), portOf(p.quic), portOf(p.gossip))
	line("http {\n  bind = \"127.0.0.1\"\n  tls = false\n  acl = false\n}")
	line("gossip {\n  key = %q\n}", gossipKey)
	enrol := ""
	if size.Enrol && p.Role == starling.RoleServer {
		enrol = "  enrol_cert = \"enrol.pem\"\n  enrol_key = \"enrol-key.pem\"\n"
	}
	line("tls {\n  ca = \"ca.pem\"\n  cert = \"node.pem\"\n  key = \"node-key.pem\"\n%s}", enrol)
	switch p.Role {
	case starling.RoleServer:
		takeover := ""
		if size.TakeoverAfter != "" {
			takeover = fmt.Sprintf("  takeover_after = %q\n", size.TakeoverAfter)
		}
		cells := ""
		if size.CellMax > 0 || size.CellQuiet != "" {
			cells = fmt.Sprintf("  cells {\n    max = %d\n    quiet = %q\n  }\n", size.CellMax, size.CellQuiet)
		}
		line("server {\n  enabled = true\n  bootstrap_expect = %d\n%s%s  autopilot {\n    server_stabilization_time = \"1s\"\n  }\n}", size.Servers, takeover, cells)
		if size.Together {
			line("cache {\n  enabled = true\n  max_bytes = \"20GiB\"\n}")
		}
	case starling.RoleCache:
		line("cache {\n  enabled = true\n  max_bytes = \"20GiB\"\n}")
	case starling.RoleWorker:
		line("worker {\n  enabled = true\n  slots = 1\n  allow_file_repos = true\n  read_only_paths = [%s]\n}", strings.Join(toolchainPaths(), ", "))
	case starling.RoleMachine:
		line("machine {\n  enabled = true\n  tags = { role = \"web\" }\n  env = { PORT = \"%d\" }\n}", p.AppPort)
	}
	if size.CapMbit > 0 && (p.Role == starling.RoleCache || p.Role == starling.RoleMachine) {
		line("limits {\n  upload = \"%dMbit\"\n  download = \"%dMbit\"\n}", size.CapMbit, size.CapMbit)
	}
	return b.Bytes()
}

// toolchainPaths names the Go toolchain for the example app's build, where it is not
// part of the read-only system that every build sees.
func toolchainPaths() []string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" || strings.HasPrefix(root, "/usr/") {
		return nil
	}
	return []string{strconv.Quote(root)}
}

// StartOne runs p, which must not be running; its output is appended to its log.
func (w *World) StartOne(p *Proc) error {
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	words := append(slices.Clone(p.host.Prefix), cmp.Or(p.Bin, w.bin), "agent", "--config="+p.Config)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = filepath.Dir(p.Config)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error, 1)
	w.spawn <- func() { started <- cmd.Start() }
	err = <-started
	if closing := out.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	w.alive.Add(1)
	go func() {
		defer w.alive.Done()
		_ = cmd.Wait() // its own log says why it ended; check looks at it
		close(exited)
	}()
	return nil
}

// Start runs every process, servers first.
func (w *World) Start() error {
	for _, p := range w.Procs {
		if err := w.StartOne(p); err != nil {
			return err
		}
	}
	return nil
}

// Signal sends sig to p and waits until it has ended, grace at most.
func (p *Proc) Signal(sig syscall.Signal, grace time.Duration) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	select {
	case <-exited:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("%s did not end within %s of %s", p.Name, grace, sig)
	}
}

// PID returns the process ID; 0 before the first start.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Exited returns a channel that is closed when the run of the last start has ended.
func (p *Proc) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// Close stops every process, machines first, and kills what does not stop in time.
func (w *World) Close() error {
	var errs []error
	var stopping sync.WaitGroup
	var mu sync.Mutex
	for _, p := range w.Procs {
		stopping.Go(func() {
			err := p.Signal(syscall.SIGTERM, stopGrace)
			if err != nil {
				err = errors.Join(err, p.Signal(syscall.SIGKILL, killGrace))
			}
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	stopping.Wait()
	w.alive.Wait()
	close(w.spawn)
	w.ports.release()
	return errors.Join(errs...)
}

// Tail returns the end of a process's log, for a message.
func (p *Proc) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
