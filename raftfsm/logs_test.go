package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/starlingdeploy/starling"
)

// Each section is recorded once, those of deployments that have ended, too; it is bounded,
// and a snapshot keeps it.
func TestLogStored(t *testing.T) {
	l := newLedger(t)
	id := l.ended(0, 1)[0]
	log := func(name string, bytes int64) LogStored {
		return LogStored{ID: id, Section: starling.LogSection{Name: name, Log: starling.DigestOf([]byte(name)), Bytes: bytes}}
	}
	for i := range starling.MaxLogSections {
		l.must(TypeLogStored, log(fmt.Sprintf("build.%d", i), 1))
	}
	again := log("build.3", 7)
	l.must(TypeLogStored, again)
	if d, _ := l.View().Deployment(id); len(d.Logs) != starling.MaxLogSections || d.Logs[3].Bytes != 1 {
		t.Errorf("%d sections, %+v", len(d.Logs), d.Logs[3])
	}
	if r := l.apply(TypeLogStored, log("one-more", 1)); !errors.Is(r.Err, starling.ErrConflict) {
		t.Errorf("one too many: %v", r.Err)
	}
	for _, bad := range []LogStored{log("UPPER", 1), log("", 1), log("a=b", 1), log("x", 0), log("x", starling.MaxLogSectionBytes+1), {ID: id, Section: starling.LogSection{Name: "x", Bytes: 1}}} {
		if r := l.apply(TypeLogStored, bad); !starling.IsInvalid(r.Err) {
			t.Errorf("%+v: %v", bad.Section, r.Err)
		}
	}
	if r := l.apply(TypeLogStored, LogStored{ID: "d9", Section: log("x", 1).Section}); !errors.Is(r.Err, starling.ErrNotFound) {
		t.Errorf("no such deployment: %v", r.Err)
	}
	var b bytes.Buffer
	if err := l.View().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	other := New("east")
	if err := other.Restore(io.NopCloser(&b)); err != nil {
		t.Fatal(err)
	}
	if d, _ := other.View().Deployment(id); len(d.Logs) != starling.MaxLogSections {
		t.Errorf("restored: %d sections", len(d.Logs))
	}
}
