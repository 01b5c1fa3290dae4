package starling_test

import (
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/starlingdeploy/starling"

// floors holds each package's floor, see ARCHITECTURE.md. Imports go down only;
// packages on one floor never import each other.
var floors = map[string]int{
	"":           0,
	"raftfsm":    1,
	"swarm":      1,
	"artifact":   1,
	"delta":      1,
	"pki":        1,
	"rpc":        1,
	"client":     1,
	"faults":     1,
	"web":        1,
	"webhook":    1,
	"transport":  2,
	"membership": 2,
	"raftnode":   2,
	"blobcache":  2,
	"notify":     2,
	"enrol":      2,
	"cell":       2,
	"world":      2,
	"lab":        2,
	"history":    2,
	"control":    3,
	"build":      3,
	"agent":      3,
	"httpapi":    3,
	"sim":        4,
	"sim/plane":  4,
	"sim/day":    4,
	"bench":      4,
	"chaos":      4,

	"bench/trial":        3,
	"cmd/starling":       5,
	"cmd/starling-bench": 5,
}

// exceptions are imports within a floor, each with its reason.
var exceptions = map[[2]string]string{
	{"artifact", "pki"}:  "manifests are signed with the node's certificate",
	{"bench", "sim"}:     "a scenario runs the simulator",
	{"bench", "sim/day"}: "a scenario runs the simulated day",
}

// forbidden imports of third-party or standard packages, each with its reason.
var forbidden = []struct{ pkg, imported, reason string }{
	{"", "github.com/", "the domain stands on the standard library alone"},
	{"", "net/http", "the domain does no I/O"},
	{"", "os", "the domain does no I/O"},
	{"raftfsm", "math/rand", "the state machine is deterministic: randomness comes in the command"},
	{"raftfsm", "net", "the state machine does no I/O"},
	{"raftfsm", "os", "the state machine does no I/O"},
	{"swarm", "math/rand", "the brain is deterministic: its seed is configuration"},
	{"swarm", "net", "the brain does no I/O"},
	{"swarm", "os", "the brain does no I/O"},
	{"swarm", "sync", "one owner, no locks"},
	{"swarm", "github.com/hashicorp", "the brain is plain Go"},
	{"cell", module + "/transport", "only cmd and bench wire transport"},
	{"cell", module + "/membership", "a benchmark's cells gossip in memory"},
	{"delta", "net", "patches are made of what is given"},
	{"delta", "os", "patches are made of what is given"},
	{"webhook", "os", "what comes in is judged by what is given"},
	{"control", module + "/transport", "only cmd and bench wire transport"},
	{"build", module + "/transport", "only cmd and bench wire transport"},
	{"agent", module + "/transport", "only cmd and bench wire transport"},
	{"httpapi", module + "/transport", "only cmd and bench wire transport"},
	{"blobcache", "github.com/quic-go", "only transport speaks QUIC"},
	{"control", "github.com/quic-go", "only transport speaks QUIC"},
	{"agent", "github.com/quic-go", "only transport speaks QUIC"},
	{"sim", module + "/transport", "the simulator stands on floors 0 and 1"},
	{"sim", module + "/agent", "the simulator stands on floors 0 and 1"},
	{"sim/plane", "net", "the control plane is simulated on virtual time, without a socket"},
	{"sim/plane", "os", "the control plane is simulated on virtual time, without a disk"},
	{"sim/plane", "context", "the control plane is simulated without a goroutine"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, p := range list(t) {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		floor, ok := floors[pkg]
		if !ok {
			t.Errorf("package %q has no floor: add it to floors and to ARCHITECTURE.md", pkg)
			continue
		}
		for _, imp := range p.Imports {
			for _, f := range forbidden {
				if f.pkg == pkg && (imp == f.imported || strings.HasPrefix(imp, strings.TrimSuffix(f.imported, "/")+"/")) {
					if f.imported == "github.com/" && strings.HasPrefix(imp, module) {
						continue
					}
					t.Errorf("%s imports %s: %s", pkg, imp, f.reason)
				}
			}
			if !strings.HasPrefix(imp, module) {
				continue
			}
			other := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
			if _, ok := exceptions[[2]string{pkg, other}]; ok {
				continue
			}
			if floors[other] >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", pkg, floor, other, floors[other])
			}
		}
	}
}

func TestNoClockInPureCores(t *testing.T) {
	out, err := exec.Command("grep", "-rnE", `time\.(Now|Since|Until|After|Sleep|NewTimer|NewTicker|Tick)\(`,
		"--include=*.go", "--exclude=*_test.go", "raftfsm", "swarm", "sim/plane").CombinedOutput()
	if err == nil {
		t.Errorf("the pure cores read a clock:\n%s", out)
	} else if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
		t.Fatalf("grep: %v\n%s", err, out)
	}
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
