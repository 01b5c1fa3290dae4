package starling

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// RestartMode says what becomes of a release that has used up its restarts.
type RestartMode string

// The modes.
const (
	RestartDelay RestartMode = "delay" // it goes on, at the longest pause
	RestartFail  RestartMode = "fail"  // it stays down, and the machine counts as failed
)

// Restart says how a release's child is started again when it has ended by itself, once
// it has been healthy: before that, the first end fails the activation. Fields left zero
// have the defaults below.
type Restart struct {
	Mode     RestartMode `json:"mode,omitempty"`
	Attempts int         `json:"attempts,omitempty"` // in a row; 0: without limit
	// Interval is how long a child must run for the attempts and pauses to begin anew.
	Interval Duration `json:"interval,omitempty"`
	Delay    Duration `json:"delay,omitempty"`     // before the first; it doubles from one to the next
	MaxDelay Duration `json:"max_delay,omitempty"` // which no pause exceeds
}

// Logs bounds what is kept of a child's output on a machine. Fields left zero have the
// defaults below.
type Logs struct {
	MaxMB int `json:"max_mb,omitempty"` // of one file, in MiB
	Files int `json:"files,omitempty"`  // the one being written included
}

// Defaults and bounds of running releases.
const (
	DefaultRestartInterval = 30 * time.Second
	DefaultRestartDelay    = time.Second
	DefaultRestartMaxDelay = 30 * time.Second
	MaxRestartAttempts     = 1000
	DefaultStopSignal      = "SIGTERM"
	DefaultStopTimeout     = 10 * time.Second
	MaxStopTimeout         = 10 * time.Minute
	DefaultLogMB           = 10
	DefaultLogFiles        = 2
	MaxLogMB               = 1024
	MaxLogFiles            = 100
)

// StopSignals are those that may ask a child to end.
var StopSignals = []string{"SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"}

// RestartOrDefault returns the policy with the defaults filled in.
func (d *DeploySpec) RestartOrDefault() Restart {
	var r Restart
	if d.Restart != nil {
		r = *d.Restart
	}
	if r.Mode == "" {
		r.Mode = RestartDelay
	}
	setDur(&r.Interval, DefaultRestartInterval)
	setDur(&r.Delay, DefaultRestartDelay)
	setDur(&r.MaxDelay, max(DefaultRestartMaxDelay, r.Delay.D()))
	return r
}

// StopOrDefault returns how a child is asked to end, and how long it then has before it
// is killed.
func (d *DeploySpec) StopOrDefault() (signal string, timeout time.Duration) {
	signal, timeout = DefaultStopSignal, DefaultStopTimeout
	if d.StopSignal != "" {
		signal = d.StopSignal
	}
	if d.StopTimeout != 0 {
		timeout = d.StopTimeout.D()
	}
	return signal, timeout
}

// LogsOrDefault returns the bounds of the output's files.
func (d *DeploySpec) LogsOrDefault() Logs {
	l := Logs{MaxMB: DefaultLogMB, Files: DefaultLogFiles}
	if d.Logs != nil && d.Logs.MaxMB != 0 {
		l.MaxMB = d.Logs.MaxMB
	}
	if d.Logs != nil && d.Logs.Files != 0 {
		l.Files = d.Logs.Files
	}
	return l
}

// unitRE is what systemd.unit(5) allows in the name of a service, of an instance as well.
var unitRE = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)

// validateRunning checks how a release is run.
func (d *DeploySpec) validateRunning() error {
	child := d.Restart != nil || d.StopSignal != "" || d.StopTimeout != 0 || d.Logs != nil
	switch {
	case d.SystemdUnit != "" && len(d.Run) > 0:
		return Invalidf("deploy.systemd_unit", "set run, for a child of the agent, or systemd_unit, not both")
	case d.SystemdUnit != "" && (len(d.SystemdUnit) > 255 || !unitRE.MatchString(d.SystemdUnit) || strings.HasSuffix(d.SystemdUnit, "@.service")):
		return Invalidf("deploy.systemd_unit", "%.80q: want the name of a service such as hello.service or hello@1.service", d.SystemdUnit)
	case d.SystemdUnit != "" && child:
		return Invalidf("deploy.systemd_unit", "restart, stop_signal, stop_timeout and logs are the unit's own to say: leave them out")
	case len(d.Run) == 0 && child:
		return Invalidf("deploy.run", "restart, stop_signal, stop_timeout and logs are about a child, and there is no run")
	case d.StopSignal != "" && !slices.Contains(StopSignals, d.StopSignal):
		return Invalidf("deploy.stop_signal", "%.40q: use one of %s", d.StopSignal, strings.Join(StopSignals, ", "))
	case d.StopTimeout < 0 || d.StopTimeout > Duration(MaxStopTimeout):
		return Invalidf("deploy.stop_timeout", "%s is not within 0 and %s", d.StopTimeout, MaxStopTimeout)
	}
	if l := d.LogsOrDefault(); l.MaxMB < 1 || l.MaxMB > MaxLogMB || l.Files < 1 || l.Files > MaxLogFiles {
		return Invalidf("deploy.logs", "%d files of %d MiB: want 1 to %d files of 1 to %d MiB", l.Files, l.MaxMB, MaxLogFiles, MaxLogMB)
	}
	return d.validateRestart()
}

func (d *DeploySpec) validateRestart() error {
	r := d.RestartOrDefault()
	switch {
	case r.Mode != RestartDelay && r.Mode != RestartFail:
		return Invalidf("deploy.restart.mode", "%.40q: use delay or fail", r.Mode)
	case r.Attempts < 0 || r.Attempts > MaxRestartAttempts:
		return Invalidf("deploy.restart.attempts", "%d is not within 0 and %d", r.Attempts, MaxRestartAttempts)
	case r.Mode == RestartFail && r.Attempts == 0:
		return Invalidf("deploy.restart.attempts", "mode fail needs a limit: set attempts to 1 or more")
	case r.Interval < 0 || r.Interval > Duration(MaxDeadline):
		return Invalidf("deploy.restart.interval", "%s is not within 0 and %s", r.Interval, MaxDeadline)
	case r.Delay < Duration(10*time.Millisecond) || r.Delay > Duration(MaxDeadline):
		return Invalidf("deploy.restart.delay", "%s is not within 10ms and %s", r.Delay, MaxDeadline)
	case r.MaxDelay < r.Delay || r.MaxDelay > Duration(MaxDeadline):
		return Invalidf("deploy.restart.max_delay", "%s is not within delay (%s) and %s", r.MaxDelay, r.Delay, MaxDeadline)
	}
	return nil
}
