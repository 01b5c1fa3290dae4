package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestAppFileRunning(t *testing.T) {
	apps, err := parseAppFile("app.hcl", []byte(strings.Replace(appHCL, "post = []\n", `post = []
      region {
        pre     = ["./warm"]
        timeout = "2m"
      }
      deployment {
        pre        = ["./migrate", "--all"]
        post       = ["./announce"]
        no_network = true
        env        = { LEVEL = "3" }
      }
    }
    stop_signal  = "SIGINT"
    stop_timeout = "20s"
    logs {
      max_mb = 5
      files  = 4
    }
    restart {
      mode     = "fail"
      attempts = 3
      interval = "1m"
      delay    = "2s"
`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	d := &apps[0].Deploy
	want := starling.DeploySpec{
		Restart:    &starling.Restart{Mode: "fail", Attempts: 3, Interval: starling.Duration(time.Minute), Delay: starling.Duration(2 * time.Second)},
		StopSignal: "SIGINT", StopTimeout: starling.Duration(20 * time.Second), Logs: &starling.Logs{MaxMB: 5, Files: 4},
		Hooks: starling.Hooks{
			Pre: []string{"./migrate"}, Post: []string{}, Timeout: starling.Duration(time.Minute),
			Region: &starling.OnceHooks{Pre: []string{"./warm"}, Timeout: starling.Duration(2 * time.Minute)},
			Deployment: &starling.OnceHooks{Pre: []string{"./migrate", "--all"}, Post: []string{"./announce"}, NoNetwork: true,
				Env: map[string]string{"LEVEL": "3"}, Timeout: starling.Duration(starling.DefaultOnceHookTimeout)},
		},
	}
	if !reflect.DeepEqual(d.Restart, want.Restart) || d.StopSignal != want.StopSignal || d.StopTimeout != want.StopTimeout ||
		!reflect.DeepEqual(d.Logs, want.Logs) || !reflect.DeepEqual(d.Hooks, want.Hooks) {
		t.Errorf("%+v\n%+v", d, d.Hooks)
	}
	apps, err = parseAppFile("app.hcl", []byte(`app "x" {
  deploy {
    systemd_unit = "hello.service"
  }
}`))
	if err != nil || apps[0].Deploy.SystemdUnit != "hello.service" {
		t.Errorf("%+v, %v", apps, err)
	}
}

func TestExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/*.hcl")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseAppFile(file, src); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
