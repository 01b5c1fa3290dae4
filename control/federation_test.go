package control

import (
	"errors"
	"fmt"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
)

// A batch that one server cannot apply yet must come again once it can.
func TestMirrorWaitsForTheLastServer(t *testing.T) {
	home, other := oneRegion(t, 0), newBench(t, "eu", nil)
	home.elect()
	term := other.elect()
	home.app("web", nil)
	client := clientOf(home.server, node("eu", "s1", starling.RoleServer))

	other.raft.refuse = fmt.Errorf("%w: %w: s2 speaks level 1", starling.ErrConflict, raftnode.ErrServerTooOld)
	if _, err := term.pullOnce(t.Context(), "us", client, 0); !errors.Is(err, raftnode.ErrServerTooOld) {
		t.Fatalf("pulled while a server was too old: %v", err)
	}
	other.raft.refuse = nil
	if next, err := term.pullOnce(t.Context(), "us", client, 0); err != nil || next == 0 {
		t.Fatalf("pulled up to %d: %v", next, err)
	}
	if _, ok := other.fsm.View().App("web"); !ok {
		t.Fatal("the app was passed over")
	}
}
