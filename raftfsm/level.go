package raftfsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/starlingdeploy/starling"
)

// Level is what this program speaks: it applies every command whose level is not above
// it. A new command, and a new meaning of an old one, take a new level, so that servers
// of the version before can share a cluster with this one until it is first used. Without
// one a command may do no more than before, but for new fields of records that no
// transition reads: servers of the version before pass over them.
//
//	1  the first
//	2  every command that level1 does not list
const Level = 2

// levelMoves is what a program must speak to keep copies of apps whose home has moved, or
// was restored.
const levelMoves = 2

// levelRunning is what a program must speak to keep how a release runs, in which steps it
// rolls out, and what runs once around it: one of before would forget that of the record,
// and machines would begin without their hooks.
const levelRunning = 2

// newSpec reports whether a spec says what programs of level 1 would forget.
func newSpec(d *starling.DeploySpec) bool {
	return d.SystemdUnit != "" || d.Restart != nil || d.StopSignal != "" || d.StopTimeout != 0 || d.Logs != nil || d.Hooks.Once() || newStrategy(&d.Strategy)
}

// newSpecs reports whether any record of a batch has such a spec.
func newSpecs(b *starling.Mirror) bool {
	return slices.ContainsFunc(b.Apps, func(a *starling.App) bool { return a != nil && newSpec(&a.Deploy) }) ||
		slices.ContainsFunc(b.Deployments, func(d *starling.Deployment) bool { return d != nil && newSpec(&d.Spec.Deploy) }) ||
		slices.ContainsFunc(b.Goals, func(g *starling.Goal) bool { return g != nil && newSpec(&g.Deploy) }) ||
		slices.ContainsFunc(b.Releases, func(r *starling.Release) bool { return r != nil && newSpec(&r.Deploy) })
}

// LevelPicks is what a program must speak to grant the lease that the leader has picked.
const LevelPicks = 2

// levelPlans is what a program must speak to hold an approval against its plan.
const levelPlans = 2

// LevelSupersedes is what a program must speak to end queued deployments in favour of a
// newer one.
const LevelSupersedes = 2

// LevelOrigins is what a program must speak to keep where submissions came from and which commits
// they brought: a server of the version before would hold another record for good.
const LevelOrigins = 2

// newStrategy reports whether a strategy says what programs of level 1 would read otherwise
// or not keep, though transitions or their checks read it.
func newStrategy(s *starling.Strategy) bool {
	if len(s.Regions) > 0 || len(s.Freeze) > 0 || s.MinHealthyTime != 0 || s.ProgressDeadline != 0 {
		return true
	}
	_, err := starling.ParsePercent(s.MaxFailed)
	return s.MaxFailed != "" && err != nil
}

// ErrTooNew says that an entry or a snapshot needs a newer program than this one. To
// apply it in part would silently make this server's state differ from the others'.
var ErrTooNew = errors.New("written by a newer program: upgrade this server")

// LevelOf returns the level that a program must speak to apply commands of type t;
// one above Level for a type that this program does not know.
func LevelOf(t Type) int {
	switch {
	case level1(t):
		return 1
	case Known(t):
		return 2
	}
	return Level + 1
}

// level1 lists what programs of level 1 know. It is closed: whatever is new is of a
// higher level.
func level1(t Type) bool {
	switch t {
	case TypeAppApply, TypeSubmit, TypeStart, TypePlaced, TypeAdvance, TypeWave, TypeCheckpoint, TypeFinish,
		TypeApprove, TypePause, TypeJobLease, TypeJobRequeue, TypeJobComplete, TypeJobFail,
		TypeArtifactRegister, TypeArtifactPlaced, TypeRegionUpsert, TypeMirror,
		TypeTokenBootstrap, TypeTokenCreate, TypeTokenRevoke:
		return true
	}
	return false
}

// Needs returns the level that a program must speak to apply c: that of its type, or
// the higher one that its proposer has set because the payload says something new.
func (c *Command) Needs() int { return max(1, c.Level, LevelOf(c.Type)) }

// Stamped returns c with what it needs written into it, for readers that do not know its
// type. Level 1 is not written, as programs of level 1 do not.
func (c Command) Stamped() Command {
	if n := c.Needs(); n > 1 {
		c.Level = n
	}
	return c
}

// readable refuses entries with anything in them that this program cannot apply.
func (e *Entry) readable() error {
	if e.Version > EntryVersion {
		return fmt.Errorf("%w: the entry has version %d, this program reads %d", ErrTooNew, e.Version, EntryVersion)
	}
	for i := range e.Commands {
		if c := &e.Commands[i]; c.Needs() > Level {
			return fmt.Errorf("%w: %.80q needs level %d, this program speaks %d", ErrTooNew, c.Type, c.Needs(), Level)
		}
	}
	return nil
}

// CheckEntry returns ErrTooNew if this program cannot apply a log entry. An entry that
// nobody can read is none of its business: Apply refuses it, everywhere alike.
func CheckEntry(b []byte) error {
	if !bytes.Contains(b, []byte(`"level":`)) && bytes.HasPrefix(b, []byte(`{"v":1,`)) {
		return nil // most of them: a log of ten thousand is looked through in no time
	}
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return nil
	}
	return e.readable()
}

// CheckSnapshot returns ErrTooNew if this program cannot restore the snapshot that rd
// begins with. It reads no further than the header.
func CheckSnapshot(rd io.Reader) error {
	in := newLineReader(rd)
	h, err := in.header()
	if err != nil {
		return err
	}
	return h.readable()
}

func (h *header) readable() error {
	switch {
	case h.Version > Level:
		return fmt.Errorf("%w: the snapshot needs level %d, this program speaks %d", ErrTooNew, h.Version, Level)
	case h.Version < 1:
		return fmt.Errorf("%w: version %d of the format is not supported (this program reads 1 to %d)", starling.ErrConflict, h.Version, Level)
	}
	return nil
}

// Level returns the level in use: the highest that a committed command has needed, 1 at
// least. Only programs that speak it may take part from there on.
func (v View) Level() int { return max(1, v.meta.Level) }
