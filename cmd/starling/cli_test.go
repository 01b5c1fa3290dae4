package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// cli runs one command line as a user would and returns what it printed and its exit code.
func cli(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	root := newRoot()
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		errs.WriteString(told(err))
	}
	return out.String(), errs.String(), exitCode(err)
}

func mustCLI(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := cli(t, args...)
	if code != 0 {
		t.Fatalf("starling %s: exit %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// One process with all roles, set up by hand with an operator's commands: certificates,
// gossip key, HTTPS, tokens; then an engineer's day.
func TestOperatorAndEngineer(t *testing.T) {
	dir := t.TempDir()
	ca, node := filepath.Join(dir, "ca"), filepath.Join(dir, "node")
	mustCLI(t, "tls", "ca", "create", "--cluster", "acme", "--dir", ca)
	if _, errs, code := cli(t, "tls", "ca", "create", "--dir", ca); code != exitUsage || !strings.Contains(errs, "exists") {
		t.Errorf("a second authority in the same folder: exit %d: %s", code, errs)
	}
	mustCLI(t, "tls", "cert", "create", "--ca-dir", ca, "--dir", node, "--region", "here", "--name", "one",
		"--role", "server,cache,worker,machine", "--host", "127.0.0.1")
	mustCLI(t, "tls", "ca", "enrol", "--ca-dir", ca, "--dir", node, "--region", "here")
	key := strings.TrimSpace(mustCLI(t, "operator", "gossip", "keyring", "generate"))
	http := freePort(t)
	agentFile := writeFile(t, "agent.hcl", `
name     = "one"
region   = "here"
data_dir = "`+filepath.Join(dir, "data")+`"
bind     = "127.0.0.1"
ports {
  http   = `+strconv.Itoa(http)+`
  quic   = 0
  gossip = 0
  cell   = 0
}
server {
  enabled          = true
  bootstrap_expect = 1
}
cache {
  enabled = true
}
worker {
  enabled          = true
  allow_file_repos = true
}
machine {
  enabled = true
  tags    = { role = "web" }
}
tls {
  ca        = "`+ca+`/ca.pem"
  cert      = "`+node+`/node.pem"
  key       = "`+node+`/node-key.pem"
  http_cert = "`+node+`/http.pem"
  http_key  = "`+node+`/http-key.pem"
  enrol_cert = "`+node+`/`+enrolFile+`"
  enrol_key  = "`+node+`/`+enrolKeyFile+`"
  machine_ttl = "6s"
}
gossip {
  key = "`+key+`"
}
`)
	start(t, agentFile)
	t.Setenv("STARLING_ADDR", "https://127.0.0.1:"+strconv.Itoa(http))
	t.Setenv("STARLING_CACERT", filepath.Join(ca, "ca.pem"))

	var operator starling.IssuedToken
	deadline := time.Now().Add(20 * time.Second)
	for {
		out, errs, code := cli(t, "acl", "bootstrap", "--json")
		if code == 0 {
			if err := json.Unmarshal([]byte(out), &operator); err != nil {
				t.Fatal(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("acl bootstrap: %s", errs)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if _, errs, code := cli(t, "acl", "bootstrap"); code == 0 {
		t.Errorf("a second bootstrap worked: %s", errs)
	}
	if _, errs, code := cli(t, "app", "list"); code != exitFailed || !strings.Contains(errs, "token") {
		t.Errorf("without a token: exit %d: %s", code, errs)
	}

	t.Setenv("STARLING_TOKEN", operator.Secret)
	var deployer, viewer starling.IssuedToken
	for role, to := range map[string]*starling.IssuedToken{"deployer": &deployer, "viewer": &viewer} {
		out := mustCLI(t, "acl", "token", "create", "--role", role, "--name", "the-"+role, "--json")
		if err := json.Unmarshal([]byte(out), to); err != nil {
			t.Fatal(err)
		}
	}
	if list := mustCLI(t, "acl", "token", "list", "--json"); strings.Contains(list, deployer.Secret) {
		t.Error("the list of tokens shows a secret")
	}

	r := newRepo(t)
	sha := r.commit(release("v1", true))
	appFile := writeFile(t, "app.hcl", `
app "hello" {
  source {
    git = "`+r.dir+`"
  }
  build {
    command = ["sh", "-c", "echo building $STARLING_SHA; cp -R src out"]
    output  = "out"
  }
  deploy {
    targets = "role == web"
    run     = ["./serve"]
    health {
      exec          = ["./check"]
      interval      = "50ms"
      healthy_after = "200ms"
      deadline      = "5s"
    }
  }
}
`)
	t.Setenv("STARLING_TOKEN", viewer.Secret)
	if _, errs, code := cli(t, "app", "apply", appFile); code != exitFailed || !strings.Contains(errs, "deployer") {
		t.Errorf("a viewer applied an app: exit %d: %s", code, errs)
	}
	t.Setenv("STARLING_TOKEN", deployer.Secret)
	mustCLI(t, "app", "apply", appFile)
	if _, errs, code := cli(t, "app", "apply", "--check-revision", "0", appFile); code == 0 {
		t.Errorf("an app that exists was created again: %s", errs)
	}
	if _, errs, code := cli(t, "deploy", "hello", "--sha", "nonsense"); code != exitUsage || !strings.Contains(errs, "40 or 64") {
		t.Errorf("deploying nonsense: exit %d: %s", code, errs)
	}
	var d starling.Deployment
	if err := json.Unmarshal([]byte(mustCLI(t, "deploy", "hello", "--sha", sha, "--json")), &d); err != nil {
		t.Fatal(err)
	}
	if d.Phase != starling.PhaseSucceeded || d.Machines.Healthy != 1 || !strings.Contains(d.Actor, "the-deployer") {
		t.Errorf("%+v", d)
	}
	if log := mustCLI(t, "logs", d.ID); !strings.Contains(log, "building "+sha) {
		t.Errorf("the build log: %q", log)
	}
	for _, args := range [][]string{
		{"status"}, {"status", d.ID}, {"why", d.ID}, {"why", d.ID, "--machine", "one"}, {"status", "--all"}, {"app", "list"}, {"app", "show", "hello"}, {"artifact", "list"},
		{"artifact", "inspect", d.Artifact.String()}, {"node", "status"}, {"node", "status", "one"}, {"node", "list", "--role", "server"}, {"cell", "list"}, {"server", "members"}, {"region", "list"},
	} {
		if out := mustCLI(t, args...); len(out) < 10 {
			t.Errorf("starling %s prints %q", strings.Join(args, " "), out)
		}
	}
	checkWhy(t, d.ID)
	if _, errs, code := cli(t, "deploy", "hello", "--sha", r.commit(release("v2", false))); code != exitFailed {
		t.Errorf("a broken release: exit %d: %s", code, errs)
	}
	if _, _, code := cli(t, "operator", "raft", "list-peers"); code != exitFailed {
		t.Errorf("a deployer saw the operator's part: exit %d", code)
	}
	t.Setenv("STARLING_TOKEN", operator.Secret)
	mustCLI(t, "operator", "raft", "list-peers")
	checkJoinTokens(t)
	checkNodeMistakes(t)
	checkEnrolling(t)
	mustCLI(t, "acl", "token", "revoke", deployer.ID)
	t.Setenv("STARLING_TOKEN", deployer.Secret)
	if _, _, code := cli(t, "app", "list"); code != exitFailed {
		t.Error("a revoked token still works")
	}
}

// checkWhy asks a machine how a release came to it.
func checkWhy(t *testing.T, id string) {
	t.Helper()
	var w starling.Why
	if err := json.Unmarshal([]byte(mustCLI(t, "why", id, "--machine", "one", "--json")), &w); err != nil {
		t.Fatal(err)
	}
	a := w.Account
	switch {
	case a == nil || a.Node != "one" || a.Region != "here" || a.EndedAt.IsZero():
		t.Errorf("account %+v", a)
	case a.Bytes.CacheOut == 0 || a.Bytes.Artifact == 0 || len(a.Trace.Chunk) != a.Chunks || len(a.Sources) != 1 || a.Sources[0].Kind != starling.SourceCache:
		t.Errorf("account %+v", a)
	}
	if list := mustCLI(t, "why", id, "--machine", "one", "--chunks"); !strings.Contains(list, "caches") {
		t.Errorf("chunks: %s", list)
	}
	if _, errs, code := cli(t, "why", id, "--machine", "nobody"); code != exitFailed || !strings.Contains(errs, "nobody") {
		t.Errorf("why of nobody: exit %d: %s", code, errs)
	}
	if _, _, code := cli(t, "why", id, "--chunks"); code != exitUsage {
		t.Errorf("chunks of no machine: exit %d", code)
	}
}

// A data directory in use, a busy port, and a certificate for somebody else are
// refused with the way out.
func TestAgentRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	dev := func(change func(*Config)) error {
		cfg := &Config{DataDir: filepath.Join(dir, "data"), Bind: "127.0.0.1", Ports: &Ports{HTTP: new(int), QUIC: new(int), Gossip: new(int)}}
		if err := devConfig(cfg); err != nil {
			t.Fatal(err)
		}
		change(cfg)
		if err := cfg.finish(); err != nil {
			t.Fatal(err)
		}
		return runAgent(t.Context(), cfg, logTo(t, filepath.Join(t.TempDir(), "log")), nil)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	port := busy.Addr().(*net.TCPAddr).Port
	wantError(t, dev(func(c *Config) { c.Ports.HTTP = &port }), nil, "another port")
	wantError(t, dev(func(c *Config) { c.Name = "somebody-else" }), nil, "is for dev in region dev")

	unlock, err := lockDataDir(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	wantError(t, dev(func(*Config) {}), nil, "in use by another process")
}

// start runs an agent file within the test until it ends.
func start(t *testing.T, file string) {
	t.Helper()
	cfg, err := loadConfig([]string{file})
	if err == nil {
		err = cfg.finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ready := make(chan struct{})
	log := logTo(t, filepath.Join(t.TempDir(), "agent.log"))
	ctx := t.Context() // ends before the clean-up begins
	go func() { ended <- runAgent(ctx, cfg, log, func(*process) { close(ready) }) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the agent did not start: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the agent is not ready after 20 s")
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestWriteNewKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "node-key.pem")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(dir, map[string][]byte{"node.pem": nil, "node-key.pem": nil}); err == nil {
		t.Fatal("an old key was overwritten")
	}
	if b, err := os.ReadFile(old); err != nil || string(b) != "old" {
		t.Errorf("the old key holds %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node.pem")); err == nil {
		t.Error("the certificate was written beside a key that is not its own")
	}
}
