package main

import "github.com/starlingdeploy/starling"

// The blocks of an app file about how a release runs, and what runs around it.

type restartBlock struct {
	Mode     string `hcl:"mode,optional"`
	Attempts int    `hcl:"attempts,optional"`
	Interval string `hcl:"interval,optional"`
	Delay    string `hcl:"delay,optional"`
	MaxDelay string `hcl:"max_delay,optional"`
}

type logsBlock struct {
	MaxMB int `hcl:"max_mb,optional"`
	Files int `hcl:"files,optional"`
}

type hooksBlock struct {
	Pre        []string        `hcl:"pre,optional"`
	Post       []string        `hcl:"post,optional"`
	Timeout    string          `hcl:"timeout,optional"`
	Region     *onceHooksBlock `hcl:"region,block"`
	Deployment *onceHooksBlock `hcl:"deployment,block"`
}

type onceHooksBlock struct {
	Pre       []string          `hcl:"pre,optional"`
	Post      []string          `hcl:"post,optional"`
	Timeout   string            `hcl:"timeout,optional"`
	NoNetwork bool              `hcl:"no_network,optional"`
	Env       map[string]string `hcl:"env,optional"`
}

// running sets how a release runs.
func (b *deployBlock) running(out *starling.DeploySpec, d *durations) {
	out.SystemdUnit, out.StopSignal = b.SystemdUnit, b.StopSignal
	out.StopTimeout = d.read("deploy.stop_timeout", b.StopTimeout)
	if r := b.Restart; r != nil {
		out.Restart = &starling.Restart{
			Mode: starling.RestartMode(r.Mode), Attempts: r.Attempts,
			Interval: d.read("deploy.restart.interval", r.Interval),
			Delay:    d.read("deploy.restart.delay", r.Delay),
			MaxDelay: d.read("deploy.restart.max_delay", r.MaxDelay),
		}
	}
	if l := b.Logs; l != nil {
		out.Logs = &starling.Logs{MaxMB: l.MaxMB, Files: l.Files}
	}
}

func (b *hooksBlock) hooks(d *durations) starling.Hooks {
	return starling.Hooks{
		Pre: b.Pre, Post: b.Post, Timeout: d.read("deploy.hooks.timeout", b.Timeout),
		Region:     b.Region.once("deploy.hooks.region", d),
		Deployment: b.Deployment.once("deploy.hooks.deployment", d),
	}
}

func (b *onceHooksBlock) once(field string, d *durations) *starling.OnceHooks {
	if b == nil {
		return nil
	}
	return &starling.OnceHooks{Pre: b.Pre, Post: b.Post, Timeout: d.read(field+".timeout", b.Timeout), NoNetwork: b.NoNetwork, Env: b.Env}
}
