// Package world runs a whole Starling on one computer: regions of servers, caches,
// workers and machines, each a real `starling agent` process with its own data
// directory, configuration and log. The demo, the benchmarks and the end-to-end
// tests stand on it.
package world

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

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
