package enrol

import (
	"errors"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// Pauses grow, are spread, and stay within their bounds; a server's hint goes before them.
func TestBackoff(t *testing.T) {
	away := errors.New("nobody answers")
	var sum time.Duration
	for range 1000 {
		var b backoff
		for i := range 20 {
			p := b.after(away)
			if p < pauseMin || p > pauseMax {
				t.Fatalf("pause %d: %s", i, p)
			}
			if i == 0 && p > 3*pauseMin {
				t.Fatalf("the first pause: %s", p)
			}
			if i == 19 {
				sum += p
			}
		}
		hint := &starling.BusyError{What: "busy", After: 8 * time.Second}
		if p := b.after(hint); p < hint.After || p > hint.After*9/8+10*time.Millisecond {
			t.Fatalf("with a hint of %s: %s", hint.After, p)
		}
		if p := b.after(away); p > 3*pauseMin {
			t.Fatalf("after a hint: %s", p)
		}
	}
	if mean := sum / 1000; mean < pauseMax/4 || mean > pauseMax*3/4 {
		t.Errorf("the twentieth pause is %s in the mean", mean)
	}
}
