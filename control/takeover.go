package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// maxEchoBytes bounds what another region's question says of lines.
const maxEchoBytes = 8 << 10

// OfHome tells commands that only the home of an app may give.
func OfHome(t raftfsm.Type) bool {
	switch noun, _, _ := strings.Cut(string(t), "."); noun {
	case "app", "deployment", "job":
		return true
	}
	return false
}

// supported waits, as for a leader, until a majority of the regions lets this one act. A
// new leader has yet to hear from them.
func (s *Server) supported(ctx context.Context, t *term, kind raftfsm.Type) error {
	if !OfHome(kind) {
		return nil
	}
	for end := t.now().Add(leaderWait); ; {
		err := t.Supported(s.cfg.FSM.View(), t.now())
		if err == nil || !t.now().Before(end) || t.ctx.Err() != nil {
			return err
		}
		if sleep(ctx, decideEvery) != nil {
			return err
		}
	}
}

// echoOf reads what a question from another region says.
func echoOf(r *http.Request) (*rpc.Echo, error) {
	text := r.URL.Query().Get("echo")
	if text == "" {
		return nil, nil
	}
	var e rpc.Echo
	if len(text) > maxEchoBytes || json.Unmarshal([]byte(text), &e) != nil || len(e.Floors) > maxRegions {
		return nil, starling.Invalidf("echo", "is not an echo of at most %d bytes", maxEchoBytes)
	}
	return &e, nil
}

// serveVote commits this region's vote before it answers.
func (s *Server) serveVote(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.VoteRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if req.Candidate != c.Region {
		return fmt.Errorf("%s cannot ask for votes for %.80q: %w", c, req.Candidate, starling.ErrForbidden)
	}
	vote := raftfsm.Vote{Lost: req.Lost, Epoch: req.Epoch, Candidate: req.Candidate, Regions: req.Regions, Mirror: req.Mirror}
	if req.Dry {
		if err := c.term.May(s.cfg.FSM.View(), vote, c.term.now()); err != nil {
			return err
		}
		return answerNothing(w)
	}
	if err := c.term.cast(r.Context(), vote); err != nil {
		return err
	}
	return answerNothing(w)
}

// cast commits this region's vote, if it may be given.
func (t *term) cast(ctx context.Context, vote raftfsm.Vote) error {
	if err := t.Promise(t.s.cfg.FSM.View(), vote, t.now()); err != nil {
		return err
	}
	cmd, err := raftfsm.NewCommand(raftfsm.TypeVote, t.now(), t.actor(), vote)
	if err != nil {
		return err
	}
	results, err := t.s.commit(ctx, cmd)
	if err != nil {
		return err
	}
	return results[0].Err
}

// succeed campaigns for the apps of regions that have fallen silent, and says when this
// region itself may no longer act.
func (t *term) succeed(ctx context.Context) error {
	acts := true
	for {
		if err := sleep(ctx, succeedEvery); err != nil {
			return err
		}
		v := t.s.cfg.FSM.View()
		if err := t.Supported(v, t.now()); (err == nil) != acts {
			acts = err == nil
			if acts {
				t.s.cfg.Logger.Info("a majority of regions hears this one: it acts for its apps")
				t.poke()
			} else {
				t.s.cfg.Logger.Warn("waiting until a majority of regions hears this one", "err", err)
			}
		}
		vote, due := t.Due(v, t.now())
		if !due {
			continue
		}
		votes, err := t.campaign(ctx, vote)
		if err == nil {
			err = t.takeOver(ctx, t.actor(), raftfsm.Takeover{From: vote.Lost, Epoch: vote.Epoch, Votes: votes})
		}
		if err != nil {
			t.s.cfg.Logger.Info("no takeover yet", "from", vote.Lost, "epoch", vote.Epoch, "err", err)
			t.Failed(vote.Lost, t.now())
			continue
		}
		t.s.cfg.Logger.Warn("took over a region's apps", "from", vote.Lost, "epoch", vote.Epoch, "votes", votes)
	}
}

// campaign asks for votes and returns the regions that gave theirs, a majority. It first
// asks who would, so that a region which hears nobody does not spend epochs.
func (t *term) campaign(ctx context.Context, vote raftfsm.Vote) ([]string, error) {
	if err := t.May(t.s.cfg.FSM.View(), vote, t.now()); err != nil {
		return nil, err
	}
	if votes, refusals := t.ask(ctx, vote, true); 2*(len(votes)+1) <= len(vote.Regions) {
		return nil, fmt.Errorf("%w: %d of %d regions would vote for %s: %w", starling.ErrUnavailable, len(votes)+1, len(vote.Regions), vote.Candidate, errors.Join(refusals...))
	}
	if err := t.cast(ctx, vote); err != nil {
		return nil, err
	}
	votes, refusals := t.ask(ctx, vote, false)
	if votes = append(votes, t.s.cfg.Region); 2*len(votes) <= len(vote.Regions) {
		return nil, fmt.Errorf("%w: %d of %d regions voted for %s: %w", starling.ErrUnavailable, len(votes), len(vote.Regions), vote.Candidate, errors.Join(refusals...))
	}
	return votes, nil
}

// ask asks all other regions at the same time and returns those that agree, and why the
// others do not.
func (t *term) ask(ctx context.Context, vote raftfsm.Vote, dry bool) ([]string, []error) {
	ctx, cancel := context.WithTimeout(ctx, voteWithin)
	defer cancel()
	var (
		mu       sync.Mutex
		agree    []string
		refusals []error
		all      sync.WaitGroup
	)
	for _, region := range vote.Regions {
		if region == t.s.cfg.Region || region == vote.Lost {
			continue
		}
		all.Go(func() {
			client := &rpc.Client{HTTP: &http.Client{Transport: &regionTransport{s: t.s, region: region, dirs: t.dirs}}}
			err := client.Vote(ctx, rpc.VoteRequest{Lost: vote.Lost, Epoch: vote.Epoch, Candidate: vote.Candidate,
				Regions: vote.Regions, Mirror: vote.Mirror, Dry: dry})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				agree = append(agree, region)
			} else {
				refusals = append(refusals, fmt.Errorf("%s: %w", region, err))
			}
		})
	}
	all.Wait()
	return agree, refusals
}

// takeOver begins a takeover and waits until all apps have moved; the decide loop of this
// leader or the next carries it on.
func (t *term) takeOver(ctx context.Context, actor string, p raftfsm.Takeover) error {
	cmd, err := raftfsm.NewCommand(raftfsm.TypeTakeover, t.now(), actor, p)
	if err != nil {
		return err
	}
	results, err := t.s.commit(ctx, cmd)
	if err != nil {
		return err
	}
	if results[0].Err != nil {
		return results[0].Err
	}
	done := t.s.waitView(ctx, takeoverWithin, func(v raftfsm.View) bool {
		tk, ok := v.Takeover(p.From)
		return ok && (tk.Epoch != p.Epoch || tk.Stage != starling.TakeoverBegun)
	})
	if !done {
		return fmt.Errorf("%w: the takeover of %s goes on: not all apps have moved yet", starling.ErrUnavailable, p.From)
	}
	return nil
}

// TakeOver implements httpapi.Cluster: it makes this region the home of another's apps.
// Without force it is refused while any region hears that one, or has seen more of it.
func (s *Server) TakeOver(ctx context.Context, actor, region string, force bool) (*starling.Takeover, error) {
	if err := starling.CheckName("region", region); err != nil {
		return nil, err
	}
	t, _ := s.leading()
	if t == nil {
		return nil, fmt.Errorf("take over: %w", starling.ErrNotLeader)
	}
	v := s.cfg.FSM.View()
	vote := raftfsm.Vote{Lost: region, Epoch: v.NextEpoch(region), Candidate: s.cfg.Region, Regions: v.KnownRegions(), Mirror: v.MirrorIndex(region)}
	if !force {
		if err := t.sound(ctx, v, vote); err != nil {
			return nil, fmt.Errorf("take over %s: %w: if you know better, use --force", region, err)
		}
	}
	if err := t.takeOver(ctx, actor, raftfsm.Takeover{From: region, Epoch: vote.Epoch}); err != nil {
		return nil, fmt.Errorf("take over %s: %w", region, err)
	}
	s.cfg.Logger.Warn("took over a region's apps", "from", region, "epoch", vote.Epoch, "actor", actor)
	tk, ok := s.cfg.FSM.View().Takeover(region)
	if !ok {
		return nil, fmt.Errorf("take over %s: %w", region, starling.ErrNotFound)
	}
	return tk, nil
}

// sound returns why an operator should not order a takeover: somebody hears the region, or
// has seen more of it. Regions that cannot be asked do not count.
func (t *term) sound(ctx context.Context, v raftfsm.View, vote raftfsm.Vote) error {
	if tk, ok := v.Takeover(vote.Lost); ok && tk.To == t.s.cfg.Region && tk.Stage != starling.TakeoverReturned {
		return fmt.Errorf("%w: it has been taken over already, at epoch %d", starling.ErrConflict, tk.Epoch)
	}
	if st, _ := t.dirs.status(vote.Lost, t.now()); st.Seen {
		return fmt.Errorf("%w: it answered within the last %s", starling.ErrConflict, regionSeenWithin)
	}
	if young := t.now().Sub(t.since); young < regionSeenWithin {
		return fmt.Errorf("%w: this region's leader has listened for %s only: try again in %s",
			starling.ErrUnavailable, young.Round(time.Second), (regionSeenWithin - young).Round(time.Second))
	}
	_, refusals := t.ask(ctx, vote, true)
	for _, err := range refusals {
		if !errors.Is(err, starling.ErrUnavailable) {
			return err
		}
		t.s.cfg.Logger.Warn("a region cannot be asked about a takeover", "from", vote.Lost, "err", err)
	}
	return nil
}
