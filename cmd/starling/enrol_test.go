package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/enrol"
)

// checkEnrolling has a computer become a machine with a join token, as an operator, and another refused.
func checkEnrolling(t *testing.T) {
	t.Helper()
	var k starling.IssuedJoinToken
	if err := json.Unmarshal([]byte(mustCLI(t, "node", "token", "create", "--tag", "role=db", "--json")), &k); err != nil {
		t.Fatal(err)
	}
	var servers []starling.Node
	if err := json.Unmarshal([]byte(mustCLI(t, "server", "members", "--json")), &servers); err != nil || len(servers) != 1 {
		t.Fatal(servers, err)
	}
	file := func(name, token string) string {
		dir := t.TempDir()
		secret := filepath.Join(dir, "join-token")
		if err := os.WriteFile(secret, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return writeFile(t, name+".hcl", `
name            = "`+name+`"
region          = "here"
zone            = "z1"
data_dir        = "`+filepath.Join(dir, "data")+`"
servers         = ["`+servers[0].Addr+`"]
join_token_file = "`+secret+`"
ports {
  quic   = 0
  gossip = 0
}
machine {
  enabled = true
}
`)
	}
	machine := file("new", k.Text)
	start(t, machine)
	known := func() bool {
		var nodes []starling.Node
		if err := json.Unmarshal([]byte(mustCLI(t, "node", "list", "--json")), &nodes); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(nodes, func(n starling.Node) bool { return n.Name == "new" && n.Tags["role"] == "db" && n.Zone == "z1" })
	}
	for end := time.Now().Add(30 * time.Second); !known(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the machine is not on the roster:\n%s", mustCLI(t, "node", "list"))
		}
	}
	checkRenewalUnderWay(t, machine)
	for name, c := range map[string]struct {
		code int
		file string
		says string
	}{
		"used up": {exitRefused, file("other", k.Text), "has been used by 1 machines"},
		"damaged": {exitUsage, file("other", k.Text[:60]), "cut off, or more than one line"},
		"taken":   {exitTaken, file("new", mustEnrolToken(t)), "starling node remove new"},
	} {
		if _, errs, code := cli(t, "agent", "--config", c.file); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit %d, want %d with %q: %s", name, code, c.code, c.says, errs)
		}
	}
}

// checkRenewalUnderWay deploys to the machine that has enrolled, while its certificate, of seconds, is renewed.
func checkRenewalUnderWay(t *testing.T, machine string) {
	t.Helper()
	cfg, err := loadConfig([]string{machine})
	if err != nil {
		t.Fatal(err)
	}
	certificate := func() string {
		b, err := os.ReadFile(filepath.Join(cfg.DataDir, enrol.CertFile))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	mustCLI(t, "app", "apply", writeFile(t, "db.hcl", `
app "db" {
  deploy {
    targets = "role == db"
  }
}
`))
	first := certificate()
	deployments := 0
	for end := time.Now().Add(60 * time.Second); deployments < 2 || certificate() == first; deployments++ {
		if time.Now().After(end) {
			t.Fatal("the certificate is not renewed")
		}
		tree := t.TempDir()
		if err := os.WriteFile(filepath.Join(tree, "data"), []byte(time.Now().String()), 0o600); err != nil {
			t.Fatal(err)
		}
		var pushed struct {
			Digest string `json:"digest"`
		}
		if err := json.Unmarshal([]byte(mustCLI(t, "artifact", "push", tree, "--json")), &pushed); err != nil {
			t.Fatal(err)
		}
		var d starling.Deployment
		if err := json.Unmarshal([]byte(mustCLI(t, "deploy", "db", "--artifact", pushed.Digest, "--json")), &d); err != nil {
			t.Fatal(err)
		}
		if d.Phase != starling.PhaseSucceeded || d.Machines.Healthy != 1 {
			t.Errorf("%s, %+v", d.Phase, d.Machines)
		}
	}
}

func mustEnrolToken(t *testing.T) string {
	t.Helper()
	var k starling.IssuedJoinToken
	if err := json.Unmarshal([]byte(mustCLI(t, "node", "token", "create", "--json")), &k); err != nil {
		t.Fatal(err)
	}
	return k.Text
}

func TestEnrolmentConfig(t *testing.T) {
	const machine = `
name     = "m1"
region   = "here"
data_dir = "/nowhere"
servers  = ["10.0.0.2:7471"]
machine {
  enabled = true
}
`
	for name, c := range map[string]struct{ from, to, want string }{
		"well":           {"", "", ""},
		"two tokens":     {`data_dir`, "join_token = \"a\"\njoin_token_file = \"b\"\ndata_dir", "beside join_token_file"},
		"two identities": {`machine {`, "join_token = \"a\"\ntls {\n  ca   = \"a\"\n  cert = \"b\"\n  key  = \"c\"\n}\nmachine {", "leave out one of them"},
		"no servers":     {`servers  = ["10.0.0.2:7471"]`, "", "needs the QUIC address of a server"},
		"a cache":        {`machine {`, "join_token = \"a\"\ncache {\n  enabled = true\n}\nmachine {", "makes machines only"},
		"half authority": {`machine {`, "tls {\n  ca   = \"a\"\n  cert = \"b\"\n  key  = \"c\"\n  enrol_key = \"d\"\n}\nmachine {", "goes with enrol_key"},
		"a short life":   {`machine {`, "tls {\n  ca   = \"a\"\n  cert = \"b\"\n  key  = \"c\"\n  machine_ttl = \"1s\"\n}\nmachine {", "want a time like 168h"},
	} {
		cfg, err := loadConfig([]string{writeFile(t, "agent.hcl", strings.Replace(machine, c.from, c.to, 1))})
		if err == nil {
			err = cfg.finish()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	packaged, err := loadConfig([]string{"../../packaging/machine.hcl"})
	if err == nil {
		err = packaged.finish()
	}
	if err != nil {
		t.Errorf("the packaged file: %v", err)
	}
	// A token alone says what the process is to be.
	if _, errs, code := cli(t, "agent", "--join-token=nonsense", "--name=m1", "--region=here", "--servers=127.0.0.1:1", "--data-dir="+t.TempDir()); code != exitUsage || !strings.Contains(errs, "does not begin with sjt1.") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
