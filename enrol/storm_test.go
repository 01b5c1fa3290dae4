package enrol_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/transport"
)

// A crowd of machines starts at the same moment, as after a power failure. Every one of them is
// enrolled once; every attempt is answered, if only by "come back at …". STARLING_STORM sets
// another number than stormMachines, STARLING_STORM_OVER the time over which they start, e.g. 60s.
func TestStorm(t *testing.T) {
	n := stormMachines
	if v := os.Getenv("STARLING_STORM"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	over := time.Duration(0)
	if v := os.Getenv("STARLING_STORM_OVER"); v != "" {
		var err error
		if over, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	// Servers and machines share this computer, and under -race each handshake costs ten times as much.
	patient := raftnode.Timing{Heartbeat: 3 * time.Second, Election: 3 * time.Second, LeaderLease: 2 * time.Second}
	w := newWorld(t, shape{servers: 3, admit: transport.Enrolment{PerSecond: max(40, n/60)}, timing: patient})
	token := w.token(func(k *starling.JoinToken) { k.MaxUses = n })
	before := w.entries()
	dialers := make([]*transport.EnrolDialer, min(64, 1+n/100)) // real machines have a socket each
	for i := range dialers {
		var err error
		if dialers[i], err = transport.NewEnrolDialer("127.0.0.1", nil); err != nil {
			t.Fatal(err)
		}
		defer dialers[i].Close()
	}
	var attempts, busy, unanswered atomic.Int64
	took := make([]time.Duration, n)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute+time.Duration(n)*10*time.Millisecond)
	defer cancel()
	var crowd sync.WaitGroup
	for i := range n {
		crowd.Go(func() {
			start := over * time.Duration(i) / time.Duration(n)
			time.Sleep(start)
			m := w.stormer(fmt.Sprintf("m%d", i), token)
			m.Dial = func(ctx context.Context, addr string, cas []starling.Digest) (enrol.Stream, error) {
				attempts.Add(1)
				c, err := dialers[i%len(dialers)].Dial(ctx, addr, cas)
				var b *starling.BusyError
				switch {
				case err == nil:
					return c, nil
				case errors.As(err, &b):
					busy.Add(1)
				default:
					unanswered.Add(1)
				}
				return nil, err
			}
			keyPEM, err := pki.NewKey()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := m.Enrol(ctx, keyPEM, nil); err != nil {
				t.Errorf("m%d: %v", i, err)
			}
			took[i] = time.Since(began) - start
		})
	}
	crowd.Wait()
	slices.Sort(took)
	entries := w.entries() - before
	t.Logf("%d machines in %.1f s (half in %.1f s); %d attempts, %d told to come back, %d not answered; %d log entries",
		n, took[n-1].Seconds(), took[n/2].Seconds(), attempts.Load(), busy.Load(), unanswered.Load(), entries)
	v := w.leader().fsm.View()
	if got := v.CountMachines(); got != n {
		t.Errorf("%d machines on the roster", got)
	}
	if k, _ := v.JoinToken(tokenID(t, token)); k.Uses != n {
		t.Errorf("the token was used %d times", k.Uses)
	}
	for _, s := range w.servers {
		st := s.endpoint.Stats()
		t.Logf("%s: let in %d, sent away %d", s.name, st.EnrolSince, st.EnrolBusy)
		if st.EnrolSince == 0 {
			t.Errorf("nobody came to %s", s.name)
		}
	}
}

func (w *world) stormer(name, token string) *enrol.Config {
	m := w.bare(name, token)
	m.Machine.Rack = "r" + strconv.Itoa(len(name)%7)
	return m
}
