package raftfsm

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// MaxCommandBytes bounds an entry of one command. It exceeds MaxEntryBytes so that
// a mirror batch always fits: all that one full entry changed goes in one batch.
const MaxCommandBytes = 24 << 20

// Known reports whether this program can apply commands of type t.
func Known(t Type) bool { return handlerOf(t) != nil }

// Encode returns the log entry for cmds: 1 to MaxEntryCommands known commands, within
// MaxEntryBytes (MaxCommandBytes for a single one).
func Encode(cmds []Command) ([]byte, error) {
	if err := checkCommands(cmds); err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	cmds = slices.Clone(cmds)
	for i := range cmds {
		cmds[i] = cmds[i].Stamped()
	}
	b, err := json.Marshal(Entry{Version: EntryVersion, Commands: cmds})
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	if limit := maxBytes(len(cmds)); len(b) > limit {
		return nil, fmt.Errorf("encode entry: %w", starling.Invalidf("commands", "%d bytes, more than %d", len(b), limit))
	}
	return b, nil
}

// DecodeEntry reads a log entry. With an error it returns as much as could be read,
// so that every command of a refused entry gets its answer. ErrTooNew: a newer program
// wrote it.
func DecodeEntry(b []byte) (Entry, error) {
	var e Entry
	if len(b) > MaxCommandBytes {
		return e, starling.Invalidf("entry", "%d bytes, more than %d", len(b), MaxCommandBytes)
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, starling.Invalidf("entry", "not valid JSON: %v", err)
	}
	if err := e.readable(); err != nil {
		return e, err
	}
	if e.Version != EntryVersion {
		return e, starling.Invalidf("entry.v", "version %d is not supported (this program reads %d)", e.Version, EntryVersion)
	}
	if n := len(e.Commands); n == 0 || n > MaxEntryCommands {
		return e, starling.Invalidf("entry.commands", "%d commands, want 1 to %d", n, MaxEntryCommands)
	}
	if limit := maxBytes(len(e.Commands)); len(b) > limit {
		return e, starling.Invalidf("entry", "%d bytes, more than %d", len(b), limit)
	}
	return e, nil
}

func maxBytes(commands int) int {
	if commands == 1 {
		return MaxCommandBytes
	}
	return MaxEntryBytes
}

func checkCommands(cmds []Command) error {
	if len(cmds) == 0 || len(cmds) > MaxEntryCommands {
		return starling.Invalidf("commands", "%d commands, want 1 to %d", len(cmds), MaxEntryCommands)
	}
	for i := range cmds {
		if !Known(cmds[i].Type) {
			return starling.Invalidf("type", "command %.80q is not known to this program", cmds[i].Type)
		}
	}
	return nil
}

// handler is one command's transition.
type handler func(*tx, *Command) (Result, error)

// on makes a handler of a transition that takes a payload of type P.
func on[P any](f func(*tx, *P) (Result, error)) handler {
	return func(t *tx, c *Command) (Result, error) {
		var p P
		if err := json.Unmarshal(c.Data, &p); err != nil {
			return Result{}, starling.Invalidf("data", "payload of %s: %v", c.Type, err)
		}
		return f(t, &p)
	}
}

// handlerOf returns the transition of a command type, nil if it is unknown.
func handlerOf(t Type) handler {
	switch t {
	case TypeAppApply:
		return on((*tx).appApply)
	case TypeSubmit:
		return on((*tx).submit)
	case TypeStart:
		return on((*tx).start)
	case TypePlaced:
		return on((*tx).placed)
	case TypeAdvance:
		return on((*tx).advance)
	case TypeWave:
		return on((*tx).wave)
	case TypeCheckpoint:
		return on((*tx).checkpoint)
	case TypeFinish:
		return on((*tx).finish)
	case TypeApprove:
		return on((*tx).approve)
	case TypePause:
		return on((*tx).pause)
	case TypePromote:
		return on((*tx).promote)
	case TypeIgnoreFreeze:
		return on((*tx).ignoreFreeze)
	case TypeJobLease:
		return on((*tx).jobLease)
	case TypeJobRequeue:
		return on((*tx).jobRequeue)
	case TypeJobComplete:
		return on((*tx).jobComplete)
	case TypeJobFail:
		return on((*tx).jobFail)
	case TypeArtifactRegister:
		return on((*tx).artifactRegister)
	case TypeArtifactPlaced:
		return on((*tx).artifactPlaced)
	case TypeRegionUpsert:
		return on((*tx).regionUpsert)
	case TypeMirror:
		return on((*tx).mirror)
	case TypeTokenBootstrap:
		return on((*tx).tokenBootstrap)
	case TypeTokenCreate:
		return on((*tx).tokenCreate)
	case TypeTokenRevoke:
		return on((*tx).tokenRevoke)
	case TypeHistoryArchive:
		return on((*tx).historyArchive)
	case TypeHookBegin:
		return on((*tx).hookBegin)
	case TypeHookLease:
		return on((*tx).hookLease)
	case TypeHookRequeue:
		return on((*tx).hookRequeue)
	case TypeHookEnd:
		return on((*tx).hookEnd)
	case TypeLogStored:
		return on((*tx).logStored)
	case TypeHistoryDrop:
		return on((*tx).historyDrop)
	case TypeVote:
		return on((*tx).vote)
	case TypeTakeover:
		return on((*tx).takeover)
	case TypeReturned:
		return on((*tx).returned)
	}
	if h := rosterHandlerOf(t); h != nil {
		return h
	}
	return integrationHandlerOf(t)
}
