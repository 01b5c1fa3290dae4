package main

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/starlingdeploy/starling"
)

// Config is what an agent file says, field by field; flags set the same fields.
type Config struct {
	Name      string              `hcl:"name,optional"` // default: the host's name
	Region    string              `hcl:"region,optional"`
	Zone      string              `hcl:"zone,optional"`
	Rack      string              `hcl:"rack,optional"`
	DataDir   string              `hcl:"data_dir,optional"`
	Bind      string              `hcl:"bind,optional"`
	Advertise string              `hcl:"advertise,optional"`
	Join      []string            `hcl:"join,optional"`    // gossip addresses in this region
	Servers   []string            `hcl:"servers,optional"` // QUIC addresses of this region's servers; machines only
	Regions   map[string][]string `hcl:"regions,optional"` // QUIC addresses of other regions' servers
	LogLevel  string              `hcl:"log_level,optional"`

	// A machine without tls enrols with a join token, or the file that one is in, when it first starts.
	JoinToken     string `hcl:"join_token,optional"`
	JoinTokenFile string `hcl:"join_token_file,optional"`

	Ports   *Ports        `hcl:"ports,block"`
	Server  *ServerBlock  `hcl:"server,block"`
	Cache   *CacheBlock   `hcl:"cache,block"`
	Worker  *WorkerBlock  `hcl:"worker,block"`
	Machine *MachineBlock `hcl:"machine,block"`
	HTTP    *HTTPBlock    `hcl:"http,block"`
	TLS     *TLSBlock     `hcl:"tls,block"`
	Gossip  *GossipBlock  `hcl:"gossip,block"`
	Limits  *LimitsBlock  `hcl:"limits,block"`
	Tuning  *TuningBlock  `hcl:"transport,block"`
}

// Ports holds the ports of a process; 0 takes a free one. A process that is nothing but a
// machine gossips in its cell on Gossip, one that is more besides on Cell.
type Ports struct {
	HTTP   *int `hcl:"http,optional"`
	QUIC   *int `hcl:"quic,optional"`
	Gossip *int `hcl:"gossip,optional"`
	Cell   *int `hcl:"cell,optional"`
}

// ServerBlock is the server role.
type ServerBlock struct {
	Enabled         bool   `hcl:"enabled,optional"`
	BootstrapExpect int    `hcl:"bootstrap_expect,optional"` // 0: join an existing cluster
	Replicas        int    `hcl:"replicas,optional"`         // caches that hold each chunk
	DiskReserve     string `hcl:"disk_reserve,optional"`     // free on data_dir's disk; "": 256MiB, less on a small one
	EnrolPerSecond  int    `hcl:"enrol_per_second,optional"` // machines that this server lets in to enrol; 0: transport.DefaultEnrolPerSecond
	// TakeoverAfter is how long a region is silent before the others vote for one of them
	// to take over its apps, e.g. 60s; empty: only an operator orders it.
	TakeoverAfter string `hcl:"takeover_after,optional"`
	// NotifyLocal lets notifications go to this host and by plain HTTP, for tests.
	NotifyLocal bool `hcl:"notify_local,optional"`

	Autopilot *AutopilotBlock `hcl:"autopilot,block"`
	History   *HistoryBlock   `hcl:"history,block"`
	Cells     *CellsBlock     `hcl:"cells,block"`
}

// CacheBlock is the cache role.
type CacheBlock struct {
	Enabled  bool   `hcl:"enabled,optional"`
	MaxBytes string `hcl:"max_bytes,optional"`
	// Egress is what all caches of the region may send together, in bits a second on the
	// wire, e.g. 40Gbit; empty: no cap. The same in the files of all of them.
	Egress string `hcl:"egress,optional"`
}

// WorkerBlock is the worker role.
type WorkerBlock struct {
	Enabled       bool     `hcl:"enabled,optional"`
	Slots         int      `hcl:"slots,optional"`
	ReadOnlyPaths []string `hcl:"read_only_paths,optional"` // toolchains that builds may see, beside the system
	Sandbox       string   `hcl:"sandbox,optional"`         // auto (default), require or off
	// AllowFileRepos lets apps name repositories on the worker's own disk.
	AllowFileRepos bool `hcl:"allow_file_repos,optional"`
}

// MachineBlock is the machine role.
type MachineBlock struct {
	Enabled bool              `hcl:"enabled,optional"`
	Tags    map[string]string `hcl:"tags,optional"`
	Env     map[string]string `hcl:"env,optional"` // given to the releases that run here
}

// HTTPBlock is the API's listener. Without TLS and tokens it binds to loopback only.
type HTTPBlock struct {
	Bind string `hcl:"bind,optional"` // IP address; default: the process's
	TLS  *bool  `hcl:"tls,optional"`
	ACL  *bool  `hcl:"acl,optional"`
}

// TLSBlock names the files of the process's identity.
type TLSBlock struct {
	CA       string `hcl:"ca"`
	Cert     string `hcl:"cert"`
	Key      string `hcl:"key"`
	HTTPCert string `hcl:"http_cert,optional"` // for the API; default: cert
	HTTPKey  string `hcl:"http_key,optional"`

	// Servers that enrol machines have their region's authority for that.
	EnrolCert  string `hcl:"enrol_cert,optional"`
	EnrolKey   string `hcl:"enrol_key,optional"`
	MachineTTL string `hcl:"machine_ttl,optional"` // of a machine's certificate, e.g. 168h
}

// GossipBlock holds the region's gossip key, or the file it is in.
type GossipBlock struct {
	Key     string `hcl:"key,optional"` // base64 of 16, 24 or 32 bytes
	KeyFile string `hcl:"key_file,optional"`
}

// LimitsBlock caps the chunks that a machine and a cache move, each role by itself, in
// bits a second on the wire, and the processors that the process may use.
type LimitsBlock struct {
	Upload   string `hcl:"upload,optional"` // e.g. 1Gbit
	Download string `hcl:"download,optional"`
	Cores    int    `hcl:"cores,optional"` // default: 1 for nothing but a machine, all for others
}

// cores is how many processors the process may use at a time; 0: as many as Go's
// runtime takes. A machine is a guest on its host, and wakes up less with one.
func (c *Config) cores() int {
	switch {
	case c.Limits != nil && c.Limits.Cores > 0:
		return c.Limits.Cores
	case c.isOnlyMachine() && os.Getenv("GOMAXPROCS") == "":
		return 1
	}
	return 0
}

// isOnlyMachine reports whether this process has no other role.
func (c *Config) isOnlyMachine() bool { return c.isMachine() && len(c.roles()) == 1 }

// TuningBlock holds what only an unusual kernel or network needs.
type TuningBlock struct {
	DisableGRO      bool   `hcl:"disable_gro,optional"`
	ReceiveCoalesce string `hcl:"receive_coalesce,optional"` // e.g. 500us: fewer wake-ups on slow links
	StreamWindow    string `hcl:"stream_window,optional"`    // e.g. 1MiB: for machines far from their peers
}

// defaultReplicas is how many caches of a region hold each chunk.
const defaultReplicas = 2

// Default ports.
const (
	defaultHTTPPort   = 7470
	defaultQUICPort   = 7471
	defaultGossipPort = 7472
	defaultCellPort   = 7473
)

// loadConfig reads agent files as one. An argument that stands in two files is an
// error, so that no file silently overrules another.
func loadConfig(paths []string) (*Config, error) {
	cfg := &Config{}
	if len(paths) == 0 {
		return cfg, nil
	}
	parser := hclparse.NewParser()
	var files []*hcl.File
	for _, p := range paths {
		f, diags := parser.ParseHCLFile(p)
		if diags.HasErrors() {
			return nil, fmt.Errorf("configuration: %w", diags)
		}
		files = append(files, f)
	}
	if diags := gohcl.DecodeBody(hcl.MergeFiles(files), nil, cfg); diags.HasErrors() {
		return nil, fmt.Errorf("configuration: %w", diags)
	}
	cfg.resolvePaths(filepath.Dir(paths[0]))
	return cfg, nil
}

// resolvePaths makes file names relative to the folder of the first file.
func (c *Config) resolvePaths(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if c.TLS != nil {
		for _, p := range []*string{&c.TLS.CA, &c.TLS.Cert, &c.TLS.Key, &c.TLS.HTTPCert, &c.TLS.HTTPKey, &c.TLS.EnrolCert, &c.TLS.EnrolKey} {
			abs(p)
		}
	}
	if c.Gossip != nil {
		abs(&c.Gossip.KeyFile)
	}
	abs(&c.DataDir)
	abs(&c.JoinTokenFile)
}

func orTrue(b *bool) bool { return b == nil || *b }

func (c *Config) isServer() bool  { return c.Server != nil && c.Server.Enabled }
func (c *Config) isCache() bool   { return c.Cache != nil && c.Cache.Enabled }
func (c *Config) isWorker() bool  { return c.Worker != nil && c.Worker.Enabled }
func (c *Config) isMachine() bool { return c.Machine != nil && c.Machine.Enabled }

func (c *Config) roles() []starling.Role {
	var out []starling.Role
	for _, r := range []struct {
		on   bool
		role starling.Role
	}{
		{c.isServer(), starling.RoleServer}, {c.isCache(), starling.RoleCache},
		{c.isWorker(), starling.RoleWorker}, {c.isMachine(), starling.RoleMachine},
	} {
		if r.on {
			out = append(out, r.role)
		}
	}
	return out
}

func (c *Config) httpBind() string {
	if c.HTTP != nil && c.HTTP.Bind != "" {
		return c.HTTP.Bind
	}
	return c.Bind
}

// listenOn returns bind:port.
func (c *Config) listenOn(bind string, port func(*Ports) *int, byDefault int) string {
	n := byDefault
	if c.Ports != nil {
		if p := port(c.Ports); p != nil {
			n = *p
		}
	}
	return net.JoinHostPort(bind, strconv.Itoa(n))
}

func (c *Config) httpAddr() string {
	return c.listenOn(c.httpBind(), func(p *Ports) *int { return p.HTTP }, defaultHTTPPort)
}

func (c *Config) quicAddr() string {
	return c.listenOn(c.Bind, func(p *Ports) *int { return p.QUIC }, defaultQUICPort)
}

// advertisedQUIC is the QUIC address that others reach this process at.
func (c *Config) advertisedQUIC() string {
	return c.listenOn(c.Advertise, func(p *Ports) *int { return p.QUIC }, defaultQUICPort)
}

func (c *Config) gossipAddr() string {
	return c.listenOn(c.Bind, func(p *Ports) *int { return p.Gossip }, defaultGossipPort)
}

// gossipKey decodes the region's gossip key. It is nil where there is none, of a machine
// that is given its cell's.
func (c *Config) gossipKey() ([]byte, error) {
	if c.Gossip == nil {
		return nil, nil
	}
	text := c.Gossip.Key
	if c.Gossip.KeyFile != "" {
		b, err := os.ReadFile(c.Gossip.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("gossip.key_file: %w", err)
		}
		text = string(b)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != 16 && len(key) != 24 && len(key) != 32 {
		return nil, starling.Invalidf("gossip.key", "is not base64 of 16, 24 or 32 bytes")
	}
	return key, nil
}

// diskReserve is what should stay free on the disk of a server's Raft, in bytes; 0: the default.
func (c *Config) diskReserve() (uint64, error) {
	if c.Server.DiskReserve == "" {
		return 0, nil
	}
	n, err := parseBytes("server.disk_reserve", c.Server.DiskReserve)
	return uint64(max(n, 0)), err
}

// caps returns the limits in bytes a second; 0: none.
func (c *Config) caps() (upload, download int64, err error) {
	if c.Limits == nil {
		return 0, 0, nil
	}
	if c.Limits.Cores < 0 {
		return 0, 0, starling.Invalidf("limits.cores", "%d is negative", c.Limits.Cores)
	}
	if upload, err = parseRate("limits.upload", c.Limits.Upload); err != nil {
		return 0, 0, err
	}
	download, err = parseRate("limits.download", c.Limits.Download)
	return upload, download, err
}
