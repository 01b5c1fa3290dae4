package starling

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Plan is what a submission would do, or what a deployment under way is about to do. The
// first group of fields decides; Hash covers it and nothing else, so that an approval can
// be bound to what was shown. The rest is for people, and flutters.
type Plan struct {
	App string `json:"app"`
	SHA string `json:"sha,omitempty"`
	// Artifact is zero as long as it is to be built.
	Artifact Digest      `json:"artifact,omitzero"`
	Previous PlanRelease `json:"previous"`
	Spec     Digest      `json:"spec"` // SpecDigest of the spec that goes with it
	// ChangedTo is the SpecDigest of the app's present spec if that was changed since the
	// deployment was submitted, which goes on with its own; zero: it was not.
	ChangedTo Digest       `json:"changed_to,omitzero"`
	Regions   []PlanRegion `json:"regions"` // in the order in which they go; of each only the name decides

	ID         Digest `json:"hash"` // Hash, as the server that made the plan computed it
	Deployment string `json:"deployment,omitempty"`
	Home       string `json:"home"`
	Revision   uint64 `json:"revision"` // of the app; 0: it does not exist yet
	// Change is false if machines would go on as they are: the same artifact and spec.
	Change   bool            `json:"change"`
	Changes  []FieldChange   `json:"changes"` // of the spec, from that of the release that runs
	Strategy Strategy        `json:"strategy"`
	Bytes    PlanBytes       `json:"bytes"`
	Stages   []StageEstimate `json:"stages"`
	TotalMS  int64           `json:"total_ms"` // of all stages with an estimate
	WaitsFor []PlanWait      `json:"waits_for"`
}

// PlanRelease is the release that a plan's would follow; zero: there is none.
type PlanRelease struct {
	Artifact   Digest     `json:"artifact,omitzero"`
	Generation Generation `json:"generation"`
	SHA        string     `json:"sha,omitempty"`
	Deployment string     `json:"deployment,omitempty"`
}

// PlanRegion is a region that takes part, with its machines as its leader counts them.
type PlanRegion struct {
	Name     string `json:"name"`
	Machines int    `json:"machines"` // alive and chosen; -1: the region did not answer
	Absent   int    `json:"absent"`   // chosen, but not seen
	Held     int    `json:"held"`     // of Machines: those that hold the artifact already
	Placed   bool   `json:"placed"`   // the region's caches hold the artifact
}

// PlanBytes says what would move.
type PlanBytes struct {
	Artifact int64 `json:"artifact"` // size of the artifact
	// New is what of it a machine that runs the previous release lacks: chunks that are
	// in no file of that.
	New       int64  `json:"new"`
	Cached    bool   `json:"cached"`    // it is built already
	Estimated bool   `json:"estimated"` // from earlier deployments; else counted in the manifests
	Basis     string `json:"basis"`     // in words; also why there is no number
}

// StageEstimate is the median time of a stage in deployments that succeeded.
type StageEstimate struct {
	Stage string `json:"stage"`
	MS    int64  `json:"ms"`
	Of    int    `json:"of"`    // deployments that the median is of; 0: there are none to judge by
	Basis string `json:"basis"` // "app": of the same app, "all": of all apps, "none", or "spec": what the spec demands
}

// The stages of an estimate, in the order of Timings.
const (
	StageQueued    = "queued"
	StageBuild     = "build"
	StageReplicate = "replicate"
	StageStage     = "stage"
	StageRollout   = "rollout"
)

// PlanWait is something that a deployment would wait for, or does.
type PlanWait struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// The kinds of PlanWait.
const (
	WaitDeployment = "deployment" // another of the same app goes first
	WaitQueue      = "queue"      // builds of other apps go first
	WaitWorker     = "worker"     // nobody is there to build it
	WaitRegion     = "region"     // a region does not answer
	WaitGate       = "gate"       // until enough regions hold the artifact
	WaitApproval   = "approval"
	WaitFreeze     = "freeze" // a freeze window
	WaitPaused     = "paused"
)

// FieldChange is one field of a spec that differs. Old and New are JSON, empty where the
// field is not set.
type FieldChange struct {
	Field string `json:"field"` // dotted path, e.g. deploy.strategy.waves
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
}

// Approval says who let a deployment roll out, and which plan they had seen.
type Approval struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Plan Digest    `json:"plan,omitzero"` // its Hash; zero: none was named
}

// planHashVersion begins what is hashed, so that another form gives other hashes.
const planHashVersion = "starling-plan/1"

// Hash identifies what a plan decides: the app, the spec that goes with it (and through that
// targets, gate, waves, region order, freeze windows, hooks and all else in it), whether the
// app's spec was changed since, commit and artifact, the release that it follows, and the
// regions that take part, in order. Counts of machines, estimates, waits and the deployment's
// ID do not count: as long as nothing is decided otherwise the hash stays.
func (p *Plan) Hash() Digest {
	names := make([]string, len(p.Regions))
	for i := range p.Regions {
		names[i] = p.Regions[i].Name
	}
	b, err := json.Marshal(struct {
		Version, App, SHA  string
		Artifact, Previous Digest
		Generation         Generation
		Spec, ChangedTo    Digest
		Regions            []string
	}{planHashVersion, p.App, p.SHA, p.Artifact, p.Previous.Artifact, p.Previous.Generation, p.Spec, p.ChangedTo, names})
	if err != nil {
		panic("starling: a plan cannot be marshalled: " + err.Error()) // plain data: unreachable
	}
	return sha256.Sum256(b)
}

// spec returns what people write of an app, as JSON: neither where it lives nor its revision.
func (a *App) spec() []byte {
	s := *a
	s.Home, s.Epoch, s.Line, s.Revision = "", 0, "", 0
	b, err := json.Marshal(&s)
	if err != nil {
		panic("starling: a spec cannot be marshalled: " + err.Error()) // plain data: unreachable
	}
	return b
}

// SpecDigest identifies what people write of an app: the same spec gives the same digest,
// whichever its home and revision.
func (a *App) SpecDigest() Digest { return DigestOf(a.spec()) }

// DiffSpecs lists the fields in which two specs differ, by path. A nil spec has no fields.
// Lists and maps of text are one field each.
func DiffSpecs(before, after *App) []FieldChange {
	old, now := fieldsOf(before), fieldsOf(after)
	all := maps.Clone(old)
	maps.Copy(all, now)
	out := []FieldChange{}
	for _, f := range slices.Sorted(maps.Keys(all)) {
		if old[f] != now[f] {
			out = append(out, FieldChange{f, old[f], now[f]})
		}
	}
	return out
}

func fieldsOf(a *App) map[string]string {
	out := map[string]string{}
	if a == nil {
		return out
	}
	d := json.NewDecoder(bytes.NewReader(a.spec()))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		panic("starling: a spec cannot be read back: " + err.Error()) // unreachable
	}
	flatten(out, "", v)
	return out
}

// flatten notes the leaves of a JSON object by their dotted path. What is empty, as fields
// are that nobody set, is left out.
func flatten(out map[string]string, path string, v any) {
	if fields, ok := v.(map[string]any); ok && path != "build.env" {
		for name, f := range fields {
			if path != "" {
				name = path + "." + name
			}
			flatten(out, name, f)
		}
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("starling: a field cannot be marshalled: " + err.Error()) // unreachable
	}
	switch s := string(b); s {
	case `null`, `""`, `[]`, `{}`:
	default:
		out[path] = s
	}
}

// StaleError says that something has changed since the caller read what the request builds
// on. It wraps ErrConflict.
type StaleError struct {
	Field  string // of the request that names what was read
	Detail string
	Hint   string // what to do
}

func (e *StaleError) Error() string { return fmt.Sprintf("%s: %s: %s", ErrConflict, e.Detail, e.Hint) }

// Unwrap makes a StaleError an ErrConflict.
func (e *StaleError) Unwrap() error { return ErrConflict }

// PlanRequest asks what a submission would do.
type PlanRequest struct {
	App      string `json:"-"`             // HTTP carries it in the path
	SHA      string `json:"sha,omitempty"` // at most one of SHA and Artifact; neither: the release that runs
	Artifact Digest `json:"artifact,omitzero"`
	Priority int    `json:"priority,omitempty"`
	Spec     *App   `json:"spec,omitempty"` // as if it had been applied before; nil: the app as it is
}
