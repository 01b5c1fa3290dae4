package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// oldest reads starling_oldest_nonterminal_seconds at a server.
func (s *rigServer) oldest() (float64, error) {
	res, err := http.Get("http://" + s.http + "/v1/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "starling_oldest_nonterminal_seconds "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("%s does not tell", s.name)
}

// A deployment that nobody builds ends once, by its deadline while there is a quorum, and
// as soon as there is one again otherwise. The gauge says how old it is, alike at leader
// and followers, without a quorum too.
func TestEverythingEndsAndTheGaugeTells(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, quick())
	l := r.leader()
	a := starling.App{Name: "a", Source: starling.SourceSpec{Git: "https://git.example/x.git"},
		Build:  &starling.BuildSpec{Command: []string{"make"}},
		Deploy: starling.DeploySpec{Targets: "role == nobody", Deadline: starling.Duration(3 * time.Second)}}
	a.SetDefaults()
	if _, err := l.api().ApplyApp(t.Context(), a, nil); err != nil {
		t.Fatal(err)
	}
	submit := func(key string) *starling.Deployment {
		t.Helper()
		d, err := r.leader().api().Submit(t.Context(), starling.Submission{App: "a", SHA: shaOf(key), IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// The gauge is the age of the oldest, to within what it takes to ask and to replicate.
	gauges := func(when string, d *starling.Deployment, servers ...*rigServer) {
		t.Helper()
		for _, s := range servers {
			r.eventually("the gauge "+when, func() error {
				before := time.Since(d.CreatedAt).Seconds()
				got, err := s.oldest()
				after := time.Since(d.CreatedAt).Seconds()
				if err == nil && (got < before-0.01 || got > after+0.01) {
					err = fmt.Errorf("%s says %.3f s, the oldest is %.3f to %.3f s old", s.name, got, before, after)
				}
				return err
			})
		}
	}
	ended := func(d *starling.Deployment, within time.Duration) {
		t.Helper()
		var end *starling.Deployment
		r.eventually("the end of "+d.ID, func() error {
			var err error
			if end, err = r.leader().api().Deployment(t.Context(), d.ID); err == nil && !end.Phase.Terminal() {
				err = fmt.Errorf("it is %s", end.Phase)
			}
			return err
		})
		if end.Phase != starling.PhaseFailed || end.EndedAt.Sub(d.Deadline) > within {
			t.Errorf("%s is %s, %s after its deadline", end.ID, end.Phase, end.EndedAt.Sub(d.Deadline))
		}
		for _, s := range r.servers {
			if s.node() != nil {
				r.eventually("a gauge of nothing", func() error {
					got, err := s.oldest()
					if err == nil && got != 0 {
						err = fmt.Errorf("%s says %.3f s", s.name, got)
					}
					return err
				})
			}
		}
	}

	d := submit("k1")
	gauges("with all there", d, r.servers...)
	ended(d, 10*time.Second)

	d = submit("k2")
	gauges("before the quorum goes", d, r.servers...)
	first, second := r.leader(), r.follower(r.leader())
	first.kill()
	second.kill()
	var alone *rigServer
	for _, s := range r.servers {
		if s.node() != nil {
			alone = s
		}
	}
	for time.Now().Before(d.Deadline.Add(time.Second)) {
		gauges("without a quorum", d, alone)
		time.Sleep(200 * time.Millisecond)
	}
	back := time.Now()
	first.start()
	r.leader()
	quorum := time.Since(back)
	ended(d, 10*time.Second+time.Since(d.Deadline))
	if late := time.Since(back) - quorum; late > 10*time.Second {
		t.Errorf("%s after the quorum returned", late)
	}
}
