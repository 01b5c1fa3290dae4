package starling

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Duration is a time.Duration whose text form is that of time.ParseDuration ("15m").
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %.40q: use a form like 90s or 15m", b)
	}
	*d = Duration(v)
	return nil
}

// App is what is deployed. Its Home region orders its releases.
type App struct {
	Name     string     `json:"name"`
	Home     string     `json:"home"`
	Epoch    uint64     `json:"epoch,omitempty"` // grows whenever the home moves; 0 reads as 1
	Line     string     `json:"line,omitempty"`  // region among whose apps it counts when regions vote; empty: Home
	Revision uint64     `json:"revision"`        // Raft index of the last change, in the home
	Source   SourceSpec `json:"source"`
	Build    *BuildSpec `json:"build,omitempty"` // nil: prebuilt artifacts only
	Deploy   DeploySpec `json:"deploy"`
}

// SourceSpec says where the code is.
type SourceSpec struct {
	Git    string `json:"git,omitempty"`
	Branch string `json:"branch,omitempty"`
}

// BuildSpec says how a commit becomes a tree of files.
type BuildSpec struct {
	Command  []string          `json:"command"`
	Output   string            `json:"output"` // directory or file, relative to the checkout
	Timeout  Duration          `json:"timeout"`
	Network  bool              `json:"network"`
	MemoryMB int64             `json:"memory_mb"`
	DiskMB   int64             `json:"disk_mb"` // checkout, caches and output together
	Env      map[string]string `json:"env,omitempty"`
}

// DeploySpec says which machines run the app and how a new release reaches them.
type DeploySpec struct {
	Targets string   `json:"targets"`       // Selector text; empty selects every machine
	Run     []string `json:"run,omitempty"` // supervised child; empty: only placed on disk
	// SystemdUnit is the service that the machine's systemd runs, instead of a child. The
	// unit is the machine's own and runs what current/ holds.
	SystemdUnit string   `json:"systemd_unit,omitempty"`
	Restart     *Restart `json:"restart,omitempty"` // nil: the defaults; see RestartOrDefault
	StopSignal  string   `json:"stop_signal,omitempty"`
	// StopTimeout is what a child has to end before it is killed with its group.
	StopTimeout Duration `json:"stop_timeout,omitempty"`
	Logs        *Logs    `json:"logs,omitempty"` // nil: the defaults; see LogsOrDefault

	Deadline Duration `json:"deadline"` // from submission to terminal phase
	Keep     int      `json:"keep"`     // releases kept on a machine for rollback
	Health   *Health  `json:"health,omitempty"`
	Hooks    Hooks    `json:"hooks"`
	Strategy Strategy `json:"strategy"`
}

// Health is a check of a running release; exactly one of HTTP, TCP and Exec is set.
// $NAME in HTTP and TCP is replaced from the environment of the release.
type Health struct {
	HTTP         string   `json:"http,omitempty"`
	TCP          string   `json:"tcp,omitempty"`
	Exec         []string `json:"exec,omitempty"`
	Interval     Duration `json:"interval"`
	Timeout      Duration `json:"timeout"`       // of one check
	HealthyAfter Duration `json:"healthy_after"` // must pass without a break for this long
	Deadline     Duration `json:"deadline"`      // to become healthy at all
}

// Defaults of a spec, as a user would expect them.
const (
	DefaultBuildTimeout = 15 * time.Minute
	DefaultDeadline     = 30 * time.Minute
	MaxDeadline         = 24 * time.Hour
	DefaultKeep         = 3
	DefaultMemoryMB     = 4096
	DefaultDiskMB       = 20480
)

// Names of apps, regions and nodes: DNS labels.
var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName refuses anything that is not a DNS label of at most 63 bytes.
func CheckName(field, s string) error {
	if !nameRE.MatchString(s) {
		return Invalidf(field, "%.80q: use lower-case letters, digits and dashes, 63 at most, a letter or digit first and last", s)
	}
	return nil
}

var shaRE = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// CheckSHA refuses anything that is not a full git object name.
func CheckSHA(s string) error {
	if !shaRE.MatchString(s) {
		return Invalidf("sha", "%.80q: want the full commit SHA, 40 or 64 lower-case hex digits (git rev-parse HEAD)", s)
	}
	return nil
}

// SetDefaults fills what the user left out.
func (a *App) SetDefaults() {
	if b := a.Build; b != nil {
		setDur(&b.Timeout, DefaultBuildTimeout)
		if b.Output == "" {
			b.Output = "."
		}
		if b.MemoryMB == 0 {
			b.MemoryMB = DefaultMemoryMB
		}
		if b.DiskMB == 0 {
			b.DiskMB = DefaultDiskMB
		}
	}
	d := &a.Deploy
	setDur(&d.Deadline, DefaultDeadline)
	d.Hooks.setDefaults()
	if d.Keep == 0 {
		d.Keep = DefaultKeep
	}
	if h := d.Health; h != nil {
		setDur(&h.Interval, time.Second)
		setDur(&h.Timeout, 2*time.Second)
		setDur(&h.HealthyAfter, 3*time.Second)
		setDur(&h.Deadline, time.Minute)
	}
	s := &d.Strategy
	if s.Gate == "" {
		s.Gate = GateAllRegions
	}
	if len(s.Waves) == 0 {
		s.Waves = []string{"100%"}
	}
	if s.MaxFailed == "" {
		s.MaxFailed = "0%"
	}
}

func setDur(d *Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = Duration(otherwise)
	}
}

// Validate checks a spec after SetDefaults.
func (a *App) Validate() error {
	if err := CheckName("name", a.Name); err != nil {
		return err
	}
	if a.Home != "" {
		if err := CheckName("home", a.Home); err != nil {
			return err
		}
	}
	if strings.HasPrefix(a.Source.Git, "-") || strings.HasPrefix(a.Source.Branch, "-") {
		return Invalidf("source.git", "must not begin with a dash")
	}
	if b := a.Build; b != nil {
		switch {
		case a.Source.Git == "":
			return Invalidf("source.git", "an app with a build block needs a repository")
		case len(b.Command) == 0:
			return Invalidf("build.command", "is empty")
		case b.Timeout < Duration(time.Second) || b.Timeout > Duration(MaxDeadline):
			return Invalidf("build.timeout", "%s is not within 1s and %s", b.Timeout, MaxDeadline)
		case b.Output != "." && CheckPath(b.Output) != nil:
			return Invalidf("build.output", "%q is not a path inside the checkout", b.Output)
		case b.MemoryMB < 16 || b.DiskMB < 1:
			return Invalidf("build.memory_mb", "memory (16 at least) and disk must be positive")
		}
	}
	return a.Deploy.validate()
}

func (d *DeploySpec) validate() error {
	if _, err := ParseSelector(d.Targets); err != nil {
		return err
	}
	if d.Deadline < Duration(time.Second) || d.Deadline > Duration(MaxDeadline) {
		return Invalidf("deploy.deadline", "%s is not within 1s and %s", d.Deadline, MaxDeadline)
	}
	if d.Keep < 1 || d.Keep > 20 {
		return Invalidf("deploy.keep", "%d is not within 1 and 20", d.Keep)
	}
	if h := d.Health; h != nil {
		n := 0
		for _, set := range []bool{h.HTTP != "", h.TCP != "", len(h.Exec) > 0} {
			if set {
				n++
			}
		}
		if n != 1 {
			return Invalidf("deploy.health", "set exactly one of http, tcp and exec")
		}
		if h.Interval < Duration(10*time.Millisecond) {
			return Invalidf("deploy.health.interval", "%s is under 10ms", h.Interval)
		}
	}
	if err := d.validateRunning(); err != nil {
		return err
	}
	if err := d.Hooks.validate(d.Deadline); err != nil {
		return err
	}
	if err := d.Strategy.validate(); err != nil {
		return err
	}
	return d.checkTrial()
}

// BuildKey identifies what a build yields: the same app, source, spec and SHA give
// the same key, so that its artifact can be used again. Empty for apps without a build.
func (a *App) BuildKey(sha string) string {
	if a.Build == nil {
		return ""
	}
	b, err := json.Marshal(struct {
		App, Git, SHA string
		Build         *BuildSpec
	}{a.Name, a.Source.Git, sha, a.Build})
	if err != nil {
		panic("starling: build spec cannot be marshalled: " + err.Error()) // plain data: unreachable
	}
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%x", sum)
}
