package starling

import (
	"errors"
	"testing"
	"time"
)

func validApp() App {
	a := App{Name: "hello", Deploy: DeploySpec{Run: []string{"./hello"}}}
	a.SetDefaults()
	return a
}

func TestRunningDefaults(t *testing.T) {
	d := &DeploySpec{Run: []string{"./hello"}}
	if r := d.RestartOrDefault(); r != (Restart{Mode: RestartDelay, Interval: Duration(30 * time.Second), Delay: Duration(time.Second), MaxDelay: Duration(30 * time.Second)}) {
		t.Errorf("restart: %+v", r)
	}
	if s, after := d.StopOrDefault(); s != "SIGTERM" || after != 10*time.Second {
		t.Errorf("stop: %s, %s", s, after)
	}
	if l := d.LogsOrDefault(); l != (Logs{MaxMB: 10, Files: 2}) {
		t.Errorf("logs: %+v", l)
	}
	d.Restart = &Restart{Delay: Duration(time.Minute)}
	if r := d.RestartOrDefault(); r.MaxDelay != Duration(time.Minute) {
		t.Errorf("the longest pause is shorter than the first: %+v", r)
	}
}

func TestRunningValidation(t *testing.T) {
	for field, change := range map[string]func(*DeploySpec){
		"deploy.systemd_unit":             func(d *DeploySpec) { d.SystemdUnit = "hello.service" }, // with run
		"deploy.restart.mode":             func(d *DeploySpec) { d.Restart = &Restart{Mode: "never"} },
		"deploy.restart.attempts":         func(d *DeploySpec) { d.Restart = &Restart{Mode: RestartFail} },
		"deploy.restart.delay":            func(d *DeploySpec) { d.Restart = &Restart{Delay: 1} },
		"deploy.restart.max_delay":        func(d *DeploySpec) { d.Restart = &Restart{MaxDelay: Duration(time.Millisecond)} },
		"deploy.stop_signal":              func(d *DeploySpec) { d.StopSignal = "SIGSTOP" },
		"deploy.stop_timeout":             func(d *DeploySpec) { d.StopTimeout = Duration(time.Hour) },
		"deploy.logs":                     func(d *DeploySpec) { d.Logs = &Logs{Files: MaxLogFiles + 1} },
		"deploy.run":                      func(d *DeploySpec) { d.Run, d.StopSignal = nil, "SIGINT" },
		"deploy.hooks.timeout":            func(d *DeploySpec) { d.Hooks.Timeout = -1 },
		"deploy.hooks.region":             func(d *DeploySpec) { d.Hooks.Region = &OnceHooks{Timeout: Duration(time.Minute)} },
		"deploy.hooks.deployment.timeout": func(d *DeploySpec) { d.Hooks.Deployment = &OnceHooks{Pre: []string{"x"}, Timeout: d.Deadline + 1} },
	} {
		a := validApp()
		change(&a.Deploy)
		var f *FieldError
		if err := a.Validate(); !errors.As(err, &f) || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for unit, ok := range map[string]bool{
		"hello.service": true, "hello@1.service": true, "a-b_c:d.e.service": true, `dev-x\x2d1.service`: true,
		"hello": false, "hello.socket": false, "hello@.service": false, "../x.service": false, "a b.service": false, ".service": false,
	} {
		a := validApp()
		a.Deploy.Run, a.Deploy.SystemdUnit = nil, unit
		if err := a.Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", unit, err)
		}
	}
}

func TestHookRunNames(t *testing.T) {
	spec := &Hooks{Region: &OnceHooks{Pre: []string{"a"}, Post: []string{"b"}}, Deployment: &OnceHooks{Post: []string{"c"}}}
	for _, c := range []struct {
		run     HookRun
		name    string
		command string
	}{
		{HookRun{Scope: HookRegion, Region: "east"}, "pre.region.east", "a"},
		{HookRun{Scope: HookRegion, Region: "east", Post: true}, "post.region.east", "b"},
		{HookRun{Scope: HookDeployment, Region: "east", Post: true}, "post.deployment", "c"},
		{HookRun{Scope: HookDeployment, Region: "east"}, "pre.deployment", ""},
	} {
		got := ""
		if argv := c.run.Command(spec); len(argv) > 0 {
			got = argv[0]
		}
		if c.run.Name() != c.name || got != c.command {
			t.Errorf("%s runs %q, want %s and %q", c.run.Name(), got, c.name, c.command)
		}
	}
}
