package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/v2/hclsimple"
	"github.com/starlingdeploy/starling"
)

// appFile is an app file as HCL spells it. Durations and percentages are text there.
type appFile struct {
	Apps []appBlock `hcl:"app,block"`
}

type appBlock struct {
	Name   string       `hcl:"name,label"`
	Home   string       `hcl:"home,optional"`
	Source *sourceBlock `hcl:"source,block"`
	Build  *buildBlock  `hcl:"build,block"`
	Deploy *deployBlock `hcl:"deploy,block"`
}

type sourceBlock struct {
	Git    string `hcl:"git"`
	Branch string `hcl:"branch,optional"`
}

type buildBlock struct {
	Command  []string          `hcl:"command"`
	Output   string            `hcl:"output,optional"`
	Timeout  string            `hcl:"timeout,optional"`
	Network  bool              `hcl:"network,optional"`
	MemoryMB int64             `hcl:"memory_mb,optional"`
	DiskMB   int64             `hcl:"disk_mb,optional"`
	Env      map[string]string `hcl:"env,optional"`
}

type deployBlock struct {
	Targets  string   `hcl:"targets,optional"`
	Run      []string `hcl:"run,optional"`
	Deadline string   `hcl:"deadline,optional"`
	Keep     int      `hcl:"keep,optional"`

	SystemdUnit string        `hcl:"systemd_unit,optional"`
	StopSignal  string        `hcl:"stop_signal,optional"`
	StopTimeout string        `hcl:"stop_timeout,optional"`
	Restart     *restartBlock `hcl:"restart,block"`
	Logs        *logsBlock    `hcl:"logs,block"`

	Health   *healthBlock   `hcl:"health,block"`
	Hooks    *hooksBlock    `hcl:"hooks,block"`
	Strategy *strategyBlock `hcl:"strategy,block"`
}

type healthBlock struct {
	HTTP         string   `hcl:"http,optional"`
	TCP          string   `hcl:"tcp,optional"`
	Exec         []string `hcl:"exec,optional"`
	Interval     string   `hcl:"interval,optional"`
	Timeout      string   `hcl:"timeout,optional"`
	HealthyAfter string   `hcl:"healthy_after,optional"`
	Deadline     string   `hcl:"deadline,optional"`
}

type strategyBlock struct {
	Gate             string        `hcl:"gate,optional"`
	Waves            []string      `hcl:"waves,optional"`
	Regions          [][]string    `hcl:"regions,optional"`
	Bake             string        `hcl:"bake,optional"`
	MaxFailed        string        `hcl:"max_failed,optional"`
	MinHealthyTime   string        `hcl:"min_healthy_time,optional"`
	ProgressDeadline string        `hcl:"progress_deadline,optional"`
	Freeze           []freezeBlock `hcl:"freeze,block"`
	Queue            string        `hcl:"queue,optional"`
	AutoRevert       *bool         `hcl:"auto_revert,optional"`
	Approval         bool          `hcl:"approval,optional"`
	ApprovalPlan     bool          `hcl:"approval_plan,optional"`
}

type freezeBlock struct {
	Name  string   `hcl:"name,label"`
	Days  []string `hcl:"days,optional"`
	From  string   `hcl:"from"`
	To    string   `hcl:"to,optional"`
	Zone  string   `hcl:"zone,optional"`
	Until string   `hcl:"until,optional"`
}

// parseAppFile reads the apps of an app file; name is for messages, which carry line and column.
func parseAppFile(name string, src []byte) ([]starling.App, error) {
	var file appFile
	if err := hclsimple.Decode(name, src, nil, &file); err != nil {
		return nil, err
	}
	if len(file.Apps) == 0 {
		return nil, fmt.Errorf("%s: has no app block", name)
	}
	var apps []starling.App
	for i := range file.Apps {
		app, err := file.Apps[i].app()
		if err != nil {
			return nil, fmt.Errorf("%s: app %q: %w", name, file.Apps[i].Name, err)
		}
		apps = append(apps, app)
	}
	return apps, nil
}

// durations collects the errors of several texts, so that the first one is told.
type durations struct{ errs []error }

func (d *durations) read(field, text string) starling.Duration {
	var v starling.Duration
	if text == "" {
		return 0
	}
	if err := v.UnmarshalText([]byte(text)); err != nil {
		d.errs = append(d.errs, starling.Invalidf(field, "%v", err))
	}
	return v
}

func (b *appBlock) app() (starling.App, error) {
	var d durations
	app := starling.App{Name: b.Name, Home: b.Home}
	if s := b.Source; s != nil {
		app.Source = starling.SourceSpec{Git: s.Git, Branch: s.Branch}
	}
	if s := b.Build; s != nil {
		app.Build = &starling.BuildSpec{
			Command: s.Command, Output: s.Output, Timeout: d.read("build.timeout", s.Timeout),
			Network: s.Network, MemoryMB: s.MemoryMB, DiskMB: s.DiskMB, Env: s.Env,
		}
	}
	app.Deploy = cmp.Or(b.Deploy, &deployBlock{}).spec(&d)
	if err := errors.Join(d.errs...); err != nil {
		return app, err
	}
	app.SetDefaults()
	return app, app.Validate()
}

func (b *deployBlock) spec(d *durations) starling.DeploySpec {
	out := starling.DeploySpec{
		Targets: b.Targets, Run: b.Run, Deadline: d.read("deploy.deadline", b.Deadline), Keep: b.Keep,
	}
	b.running(&out, d)
	if h := b.Health; h != nil {
		out.Health = &starling.Health{
			HTTP: h.HTTP, TCP: h.TCP, Exec: h.Exec,
			Interval:     d.read("deploy.health.interval", h.Interval),
			Timeout:      d.read("deploy.health.timeout", h.Timeout),
			HealthyAfter: d.read("deploy.health.healthy_after", h.HealthyAfter),
			Deadline:     d.read("deploy.health.deadline", h.Deadline),
		}
	}
	if h := b.Hooks; h != nil {
		out.Hooks = h.hooks(d)
	}
	out.Strategy = cmp.Or(b.Strategy, &strategyBlock{}).strategy(d)
	return out
}

func (s *strategyBlock) strategy(d *durations) starling.Strategy {
	out := starling.Strategy{
		Gate: starling.Gate(s.Gate), Waves: s.Waves, Regions: s.Regions, Bake: d.read("deploy.strategy.bake", s.Bake), MaxFailed: s.MaxFailed,
		MinHealthyTime:   d.read("deploy.strategy.min_healthy_time", s.MinHealthyTime),
		ProgressDeadline: d.read("deploy.strategy.progress_deadline", s.ProgressDeadline),
		Queue:            starling.Queue(cmp.Or(s.Queue, string(starling.QueueLatest))), AutoRevert: s.AutoRevert == nil || *s.AutoRevert, Approval: s.Approval, ApprovalPlan: s.ApprovalPlan,
	}
	for _, f := range s.Freeze {
		out.Freeze = append(out.Freeze, starling.Freeze(f))
	}
	return out
}
