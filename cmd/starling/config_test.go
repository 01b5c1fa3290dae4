package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
)

const agentHCL = `
region    = "us-east"
name      = "s1"
zone      = "a"
rack      = "r12"
data_dir  = "/var/lib/starling"
bind      = "0.0.0.0"
advertise = "10.0.0.5"
join      = ["10.0.0.2:7472"]
regions   = { "eu-west" = ["10.1.0.2:7471"] }
ports {
  http = 7480
}
server {
  enabled          = true
  bootstrap_expect = 3
}
cache {
  enabled   = true
  max_bytes = "500GiB"
  egress    = "40Gbit"
}
worker {
  enabled = true
  slots   = 2
}
machine {
  enabled = true
  tags    = { role = "web" }
}
tls {
  ca   = "ca.pem"
  cert = "node.pem"
  key  = "node-key.pem"
}
gossip {
  key_file = "gossip.key"
}
limits {
  upload   = "1Gbit"
  download = "2Gbit"
}
`

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAgentFile(t *testing.T) {
	p := writeFile(t, "agent.hcl", agentHCL)
	cfg, err := loadConfig([]string{p})
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.finish(); err != nil {
		t.Fatal(err)
	}
	if len(cfg.roles()) != 4 || cfg.httpAddr() != "0.0.0.0:7480" || cfg.quicAddr() != "0.0.0.0:7471" ||
		cfg.TLS.CA != filepath.Join(filepath.Dir(p), "ca.pem") || cfg.Regions["eu-west"][0] != "10.1.0.2:7471" {
		t.Errorf("%+v", cfg)
	}
	max, err := parseBytes("x", cfg.Cache.MaxBytes)
	if err != nil || max != 500<<30 {
		t.Errorf("max_bytes %d, %v", max, err)
	}
	if egress, err := parseRate("x", cfg.Cache.Egress); err != nil || egress != 5_000_000_000 {
		t.Errorf("egress %d, %v", egress, err)
	}
	up, err := parseRate("x", cfg.Limits.Upload)
	if err != nil || up != 125_000_000 {
		t.Errorf("upload %d, %v", up, err)
	}
}

func TestAgentFileErrorsSayWhereAndWhat(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"typo":           {"bootstrap_expect = 3", "bootstrap_expext = 3", "agent.hcl:16,3"},
		"syntax":         {`rack      = "r12"`, `rack = "r12`, "agent.hcl:5"},
		"wrong type":     {"slots   = 2", `slots = "two"`, "agent.hcl:25"},
		"even servers":   {"bootstrap_expect = 3", "bootstrap_expect = 4", "1, 3 or 5"},
		"autopilot":      {"bootstrap_expect = 3", "autopilot {\n    dead_after = \"soon\"\n  }", "server.autopilot.dead_after"},
		"no time":        {"bootstrap_expect = 3", "autopilot {\n    server_stabilization_time = \"0s\"\n  }", "server_stabilization_time"},
		"min_quorum":     {"bootstrap_expect = 3", "autopilot {\n    min_quorum = -1\n  }", "min_quorum"},
		"region":         {`region    = "us-east"`, `region = "US East"`, "region"},
		"advertise":      {`advertise = "10.0.0.5"`, "", "advertise"},
		"no certificate": {"tls {\n  ca   = \"ca.pem\"\n  cert = \"node.pem\"\n  key  = \"node-key.pem\"\n}", "", "tls ca create"},
		"open HTTP":      {"limits {", "http {\n  tls = false\n}\nlimits {", "loopback"},
	} {
		src := strings.Replace(agentHCL, c.from, c.to, 1)
		if src == agentHCL {
			t.Fatalf("%s: nothing replaced", name)
		}
		cfg, err := loadConfig([]string{writeFile(t, "agent.hcl", src)})
		if err == nil {
			err = cfg.finish()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

const appHCL = `
app "hello" {
  source {
    git    = "https://git.example/hello.git"
    branch = "main"
  }
  build {
    command = ["go", "build", "-o", "out/hello", "."]
    output  = "out"
    timeout = "15m"
    network = false
  }
  deploy {
    targets  = "role == web"
    run      = ["./hello"]
    deadline = "30m"
    health {
      http          = "http://127.0.0.1:$PORT/healthz"
      interval      = "1s"
      healthy_after = "3s"
    }
    hooks {
      pre  = ["./migrate"]
      post = []
    }
    strategy {
      gate        = "all_regions"
      waves       = ["1%", "10%", "100%"]
      bake        = "30s"
      max_failed  = "1%"
      auto_revert = true
      approval    = false
    }
  }
}
`

func TestAppFile(t *testing.T) {
	apps, err := parseAppFile("app.hcl", []byte(appHCL))
	if err != nil || len(apps) != 1 {
		t.Fatalf("%v, %v", apps, err)
	}
	a := apps[0]
	if a.Name != "hello" || a.Build.Timeout.D() != 15*time.Minute || a.Deploy.Health.HTTP != "http://127.0.0.1:$PORT/healthz" ||
		!a.Deploy.Strategy.AutoRevert || a.Deploy.Keep != starling.DefaultKeep || a.Deploy.Strategy.Queue != starling.QueueLatest {
		t.Errorf("%+v", a)
	}
	full, err := parseAppFile("app.hcl", []byte(strings.Replace(appHCL, `bake        = "30s"`, `bake        = "30s"
      regions           = [["eu-west"], ["us-east", "us-west"]]
      min_healthy_time  = "10s"
      progress_deadline = "5m"
      queue             = "every"
      freeze "weekend" {
        days = ["sat", "sun"]
        from = "00:00"
        to   = "24:00"
        zone = "Europe/Berlin"
      }
      freeze "year-end" {
        from  = "2026-12-20T00:00:00Z"
        until = "2027-01-04T08:00:00Z"
      }`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	want := starling.Strategy{
		Gate: starling.GateAllRegions, Waves: []string{"1%", "10%", "100%"}, Bake: starling.Duration(30 * time.Second), MaxFailed: "1%", AutoRevert: true,
		Regions: [][]string{{"eu-west"}, {"us-east", "us-west"}}, MinHealthyTime: starling.Duration(10 * time.Second),
		ProgressDeadline: starling.Duration(5 * time.Minute), Queue: starling.QueueEvery,
		Freeze: []starling.Freeze{
			{Name: "weekend", Days: []string{"sat", "sun"}, From: "00:00", To: "24:00", Zone: "Europe/Berlin"},
			{Name: "year-end", From: "2026-12-20T00:00:00Z", Until: "2027-01-04T08:00:00Z"},
		},
	}
	if got := full[0].Deploy.Strategy; !reflect.DeepEqual(got, want) {
		t.Errorf("strategy\n got %+v\nwant %+v", got, want)
	}
	least, err := parseAppFile("app.hcl", []byte(`app "files" {}`))
	if err != nil || !least[0].Deploy.Strategy.AutoRevert || least[0].Build != nil || len(least[0].Deploy.Strategy.Waves) != 1 {
		t.Errorf("the least app: %+v, %v", least, err)
	}
}

func TestAppFileErrorsSayWhereAndWhat(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"typo":     {"healthy_after", "healthy_aftre", "app.hcl:20,7"},
		"block":    {"strategy {", "stratgy {", "app.hcl:26,5"},
		"unclosed": {"approval    = false\n    }\n  }\n}", "", "app.hcl:"},
		"duration": {`"15m"`, `"15 minutes"`, "build.timeout"},
		"selector": {"role == web", "role is web", "deploy.targets"},
		"waves":    {`"1%", "10%", "100%"`, `"1%", "10%"`, "deploy.strategy.waves"},
		"failures": {`max_failed  = "1%"`, `max_failed  = "some"`, "deploy.strategy.max_failed"},
		"freeze":   {`max_failed  = "1%"`, "freeze \"night\" {\n from = \"22:00\"\n to = \"25:00\"\n}", "deploy.strategy.freeze[0].to"},
		"regions":  {`max_failed  = "1%"`, `regions = [["eu"], ["us", "eu"]]`, "deploy.strategy.regions[1]"},
	} {
		_, err := parseAppFile("app.hcl", []byte(strings.Replace(appHCL, c.from, c.to, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestQuantities(t *testing.T) {
	for text, want := range map[string]int64{"1024": 1024, "1KiB": 1024, "1.5 GB": 1_500_000_000, "10b": 10} {
		if got, err := parseBytes("x", text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "-1GB", "1XB", "1e400", "NaNGB"} {
		if _, err := parseBytes("x", text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
	if _, err := parseRate("x", "10"); err == nil {
		t.Error("a rate without a unit was accepted")
	}
}

func TestAutopilotBlock(t *testing.T) {
	src := strings.Replace(agentHCL, "bootstrap_expect = 3", `bootstrap_expect = 3
  autopilot {
    cleanup_dead_servers      = false
    dead_after                = "24h"
    min_quorum                = 5
    server_stabilization_time = "90s"
  }`, 1)
	for text, want := range map[string]raftnode.Autopilot{
		agentHCL: {},
		src:      {KeepDeadServers: true, DeadAfter: 24 * time.Hour, MinQuorum: 5, Stabilization: 90 * time.Second},
	} {
		cfg, err := loadConfig([]string{writeFile(t, "agent.hcl", text)})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cfg.autopilot(); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestHistoryConfig(t *testing.T) {
	c := &Config{Server: &ServerBlock{History: &HistoryBlock{Keep: 5000, MaxAge: "2160h"}}}
	if h, err := c.history(); err != nil || h.Keep != 5000 || h.MaxAge != 2160*time.Hour {
		t.Errorf("%+v, %v", h, err)
	}
	for _, b := range []HistoryBlock{{Keep: -1}, {Keep: 2_000_000}, {MaxAge: "90d"}, {MaxAge: "1m"}} {
		c.Server.History = &b
		if _, err := c.history(); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", b, err)
		}
	}
}
