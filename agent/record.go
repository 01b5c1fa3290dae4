package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

const (
	recordVersion  = 1
	maxRecordBytes = 1 << 20
)

// record is what a machine remembers of an app across restarts. The loop owns it;
// workers get encoded copies.
type record struct {
	Version int `json:"version"`
	// Goal is the newest accepted. Its generation never goes back.
	Goal *starling.Goal `json:"goal,omitempty"`
	// Running is the goal whose release was last found healthy; nil: none.
	Running *starling.Goal `json:"running,omitempty"`
	// Failed is the generation that failed here last. It is not tried again.
	Failed *failure `json:"failed,omitempty"`
	// Releases are those on disk, the last used first.
	Releases []releaseRecord `json:"releases"`
}

type failure struct {
	Generation starling.Generation `json:"generation"`
	Reason     string              `json:"reason"`
}

type releaseRecord struct {
	Artifact starling.Digest `json:"artifact"`
	Complete bool            `json:"complete"`
	UsedAt   time.Time       `json:"used_at"`
}

// loadRecord reads an app's record; one that does not exist is empty.
func loadRecord(dir appDir) (*record, error) {
	b, err := os.ReadFile(dir.join(recordName))
	if errors.Is(err, os.ErrNotExist) {
		return &record{Version: recordVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load record: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("load record: %w: %w", starling.ErrCorrupt, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("load record: version %d is not supported (this program reads %d)", r.Version, recordVersion)
	}
	return &r, nil
}

// release returns the entry of an artifact, or nil.
func (r *record) release(artifact starling.Digest) *releaseRecord {
	i := slices.IndexFunc(r.Releases, func(e releaseRecord) bool { return e.Artifact == artifact })
	if i < 0 {
		return nil
	}
	return &r.Releases[i]
}

// holds reports whether all of an artifact is on disk.
func (r *record) holds(artifact starling.Digest) bool {
	e := r.release(artifact)
	return e != nil && e.Complete
}

// use puts an artifact first among the releases, adding it if need be.
func (r *record) use(artifact starling.Digest, now time.Time) {
	e := releaseRecord{Artifact: artifact}
	if old := r.release(artifact); old != nil {
		e = *old
		r.forget(artifact)
	}
	e.UsedAt = now
	r.Releases = slices.Insert(r.Releases, 0, e)
}

func (r *record) forget(artifact starling.Digest) {
	r.Releases = slices.DeleteFunc(r.Releases, func(e releaseRecord) bool { return e.Artifact == artifact })
}

// pinned reports whether a release must stay on disk.
func (r *record) pinned(artifact starling.Digest) bool {
	return r.Running != nil && r.Running.Artifact == artifact ||
		r.Goal != nil && (r.Goal.Artifact == artifact || r.Goal.Previous == artifact)
}

// surplus returns the releases beyond the keep last used, and those that were
// begun and are no longer wanted.
func (r *record) surplus(keep int) []starling.Digest {
	var out []starling.Digest
	kept := 0
	for _, e := range r.Releases {
		switch {
		case r.pinned(e.Artifact):
			kept++
		case e.Complete && kept < keep:
			kept++
		default:
			out = append(out, e.Artifact)
		}
	}
	return out
}

// kept lists the complete releases.
func (r *record) kept() []starling.Digest {
	var out []starling.Digest
	for _, e := range r.Releases {
		if e.Complete {
			out = append(out, e.Artifact)
		}
	}
	return out
}

// adoptable reports whether the running release is what g asks for, so that
// nothing need be restarted.
func (r *record) adoptable(g *starling.Goal) bool {
	return r.Running != nil && r.Running.Artifact == g.Artifact &&
		sameRunning(&r.Running.Deploy, &g.Deploy) && sameHealth(r.Running.Deploy.Health, g.Deploy.Health)
}

// sameRunning reports whether two specs run a release in the same way.
func sameRunning(a, b *starling.DeploySpec) bool {
	signalA, graceA := a.StopOrDefault()
	signalB, graceB := b.StopOrDefault()
	return slices.Equal(a.Run, b.Run) && a.SystemdUnit == b.SystemdUnit && a.RestartOrDefault() == b.RestartOrDefault() &&
		a.LogsOrDefault() == b.LogsOrDefault() && signalA == signalB && graceA == graceB
}

func sameHealth(a, b *starling.Health) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Exec, y.Exec = nil, nil
	return x.HTTP == y.HTTP && x.TCP == y.TCP && slices.Equal(a.Exec, b.Exec) &&
		x.Interval == y.Interval && x.Timeout == y.Timeout && x.HealthyAfter == y.HealthyAfter && x.Deadline == y.Deadline
}
