package starling

import (
	"slices"
	"time"
)

// Hooks are commands run around an activation: Pre and Post on each machine, in the
// release's directory; Region once for each region and Deployment once in all, on a
// worker.
type Hooks struct {
	Pre        []string   `json:"pre,omitempty"`
	Post       []string   `json:"post,omitempty"`
	Timeout    Duration   `json:"timeout"`
	Region     *OnceHooks `json:"region,omitempty"`
	Deployment *OnceHooks `json:"deployment,omitempty"`
}

// OnceHooks are commands that a worker runs, under a lease, in the sandbox of builds with
// the artifact's files as working directory. They are run at least once: after the loss
// of a worker another one runs the command again, MaxHookAttempts in all. What must not
// happen twice is to be guarded by STARLING_HOOK_KEY, which is the same each time, or by
// STARLING_HOOK_TOKEN, which grows from one to the next.
type OnceHooks struct {
	Pre       []string          `json:"pre,omitempty"`
	Post      []string          `json:"post,omitempty"`
	Timeout   Duration          `json:"timeout"` // of one run
	NoNetwork bool              `json:"no_network,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// HookScope says how often a hook runs.
type HookScope string

// The scopes. Those of machines are not recorded.
const (
	HookRegion     HookScope = "region"
	HookDeployment HookScope = "deployment"
)

// HookState is where a hook stands.
type HookState string

// The states. Hooks that had not ended with their deployment are dropped.
const (
	HookWaiting HookState = "waiting" // for a worker of its region
	HookRunning HookState = "running"
	HookDone    HookState = "done"
	HookFailed  HookState = "failed"
	HookDropped HookState = "dropped"
)

// Bounds of hooks.
const (
	DefaultHookTimeout     = time.Minute     // on a machine
	DefaultOnceHookTimeout = 5 * time.Minute // on a worker
	MaxHookAttempts        = 3
	MaxHookLogBytes        = 256 << 10 // kept of the output of a hook that runs once
)

// HookRun is one hook that runs once, for a region or for a deployment.
type HookRun struct {
	Scope     HookScope `json:"scope"`
	Post      bool      `json:"post,omitempty"` // after the machines; else before them
	Region    string    `json:"region"`         // whose workers run it
	State     HookState `json:"state"`
	Attempt   int       `json:"attempt,omitempty"` // runs begun
	Worker    string    `json:"worker,omitempty"`
	Lease     uint64    `json:"lease,omitempty"` // token of the home's log; 0: none
	First     uint64    `json:"first,omitempty"` // lease it ever had: by these its output follows that of others
	BeganAt   time.Time `json:"began_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	Log       Digest    `json:"log,omitzero"`        // its output, in the home's caches
	LogBytes  int64     `json:"log_bytes,omitempty"` // of which there are
	Sandboxed bool      `json:"sandboxed,omitempty"`
}

// Name identifies a hook within its deployment, as in "pre.region.us-east".
func (h *HookRun) Name() string {
	when := "pre"
	if h.Post {
		when = "post"
	}
	if h.Scope == HookDeployment {
		return when + "." + string(h.Scope)
	}
	return when + "." + string(h.Scope) + "." + h.Region
}

// HookDue reports whether the roll-out has come as far as a hook: that of a region before
// its machines is due with the first step that lets any of them activate.
func (d *Deployment) HookDue(h *HookRun) bool {
	return h.Post || h.Scope == HookDeployment || d.Spec.Deploy.Strategy.GroupOf(h.Region) <= d.Step().Group
}

// Of returns the hooks that a run is one of, nil if the spec has none.
func (h *HookRun) Of(spec *Hooks) *OnceHooks {
	if h.Scope == HookDeployment {
		return spec.Deployment
	}
	return spec.Region
}

// Command returns what the run runs; empty if the spec has none.
func (h *HookRun) Command(spec *Hooks) []string {
	o := h.Of(spec)
	switch {
	case o == nil:
		return nil
	case h.Post:
		return o.Post
	}
	return o.Pre
}

// Hook returns one of a deployment's hooks that run once, by its name; nil: it is not on its list.
func (d *Deployment) Hook(name string) *HookRun {
	for i := range d.Hooks {
		if d.Hooks[i].Name() == name {
			return &d.Hooks[i]
		}
	}
	return nil
}

// Ended reports whether nothing more will come of it.
func (h *HookRun) Ended() bool { return h.State != HookWaiting && h.State != HookRunning }

// Once reports whether there are hooks that workers run.
func (h *Hooks) Once() bool { return h.Region != nil || h.Deployment != nil }

// Holds reports whether the machines of a region are not to activate yet.
func (g *Goal) Holds(region string) bool { return slices.Contains(g.Held, region) }

func (h *Hooks) setDefaults() {
	setDur(&h.Timeout, DefaultHookTimeout)
	for _, o := range []*OnceHooks{h.Region, h.Deployment} {
		if o != nil {
			setDur(&o.Timeout, DefaultOnceHookTimeout)
		}
	}
}

func (h *Hooks) validate(deadline Duration) error {
	if h.Timeout < 0 || h.Timeout > Duration(MaxDeadline) {
		return Invalidf("deploy.hooks.timeout", "%s is not within 0 and %s", h.Timeout, MaxDeadline)
	}
	for _, x := range []struct {
		field string
		once  *OnceHooks
	}{{"deploy.hooks.region", h.Region}, {"deploy.hooks.deployment", h.Deployment}} {
		switch o := x.once; {
		case o == nil:
		case len(o.Pre) == 0 && len(o.Post) == 0:
			return Invalidf(x.field, "has neither pre nor post")
		case o.Timeout < Duration(time.Second) || o.Timeout > deadline:
			return Invalidf(x.field+".timeout", "%s is not within 1s and the deadline of %s", o.Timeout, deadline)
		}
	}
	return nil
}
