package world

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// certTTL is how long a world's certificates are valid.
const certTTL = 30 * 24 * time.Hour

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
