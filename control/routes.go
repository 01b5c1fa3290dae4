package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// route says who may call a route and where it is answered.
type route struct {
	role     starling.Role // empty: any
	foreign  bool          // callers of other regions, too
	atLeader bool
	serve    func(w http.ResponseWriter, r *http.Request, c *caller) error
}

// caller is who calls, verified, and the term that answers it.
type caller struct {
	starling.Identity
	term *term // nil on routes that any server answers
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, rt := range map[string]route{
		rpc.RouteStatus:         {foreign: true, serve: s.serveStatus},
		rpc.RouteGoals:          {role: starling.RoleMachine, serve: s.serveGoals},
		rpc.RouteFeed:           {role: starling.RoleMachine, serve: s.serveFeed},
		rpc.RouteRegister:       {role: starling.RoleMachine, atLeader: true, serve: s.serveRegister},
		rpc.RouteCellReport:     {role: starling.RoleMachine, atLeader: true, serve: s.serveCellReport},
		rpc.RouteMember:         {role: starling.RoleServer, atLeader: true, serve: s.serveMember},
		rpc.RouteCells:          {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveCells},
		rpc.RouteLease:          {role: starling.RoleWorker, atLeader: true, serve: s.serveLease},
		rpc.RouteHeartbeat:      {role: starling.RoleWorker, atLeader: true, serve: s.serveHeartbeat},
		rpc.RouteJobLog:         {role: starling.RoleWorker, atLeader: true, serve: s.serveJobLog},
		rpc.RouteComplete:       {role: starling.RoleWorker, atLeader: true, serve: s.serveComplete},
		rpc.RouteFail:           {role: starling.RoleWorker, atLeader: true, serve: s.serveFail},
		rpc.RouteHookLease:      {role: starling.RoleWorker, atLeader: true, serve: s.serveHookLease},
		rpc.RouteHookGrant:      {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveHookGrant},
		rpc.RouteHookHeartbeat:  {foreign: true, atLeader: true, serve: s.serveHookHeartbeat},
		rpc.RouteHookLog:        {foreign: true, atLeader: true, serve: s.serveHookLog},
		rpc.RouteHookEnd:        {foreign: true, atLeader: true, serve: s.serveHookEnd},
		rpc.RoutePush:           {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.servePush},
		rpc.RouteMachineReports: {role: starling.RoleMachine, atLeader: true, serve: s.serveMachineReports},
		rpc.RouteAdmit:          {role: starling.RoleServer, atLeader: true, serve: s.serveAdmit},
		rpc.RouteRenew:          {role: starling.RoleMachine, serve: s.serveRenew},
		rpc.RouteWants:          {role: starling.RoleCache, atLeader: true, serve: s.serveWants},
		rpc.RouteCacheReport:    {role: starling.RoleCache, atLeader: true, serve: s.serveCacheReport},
		rpc.RouteMirror:         {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveMirror},
		rpc.RouteVote:           {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveVote},
		rpc.RouteReadiness:      {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveReadiness},
		rpc.RouteAccount:        {role: starling.RoleServer, foreign: true, serve: s.serveAccount},
		rpc.RouteProgress:       {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveProgress},
		rpc.RouteRegionReports:  {role: starling.RoleServer, foreign: true, atLeader: true, serve: s.serveRegionReports},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := s.serveRoute(w, r, rt); err != nil {
				if rpc.ProblemOf(err).Status == http.StatusInternalServerError {
					s.cfg.Logger.Error("request failed", "route", pattern, "err", err)
				}
				rpc.WriteProblem(w, err)
			}
		})
	}
	return mux
}

// serveRoute checks the caller, passes the request on to the leader where that is
// the place, and otherwise answers it. An error is returned before anything is written.
func (s *Server) serveRoute(w http.ResponseWriter, r *http.Request, rt route) error {
	id, passedOn, err := s.identify(r)
	if err != nil {
		return err
	}
	if rt.role != "" && !id.Has(rt.role) {
		return fmt.Errorf("%s is not a %s: %w", id, rt.role, starling.ErrForbidden)
	}
	if !rt.foreign && id.Region != s.cfg.Region {
		return fmt.Errorf("%s is not of region %s: %w", id, s.cfg.Region, starling.ErrForbidden)
	}
	r.Body = http.MaxBytesReader(w, r.Body, rpc.MaxBodyBytes)
	c := &caller{Identity: id}
	if rt.atLeader {
		wait := leaderWait / 2
		if passedOn { // one hop is enough: our leader would ask us back
			wait = 0
		}
		t, leader, err := s.place(r.Context(), wait)
		switch {
		case err != nil:
			return err
		case t == nil && passedOn:
			return fmt.Errorf("%s: %w", s.cfg.Name, starling.ErrNotLeader)
		case t == nil:
			return s.passOn(w, r, id, leader)
		}
		c.term = t
	}
	return rt.serve(w, r, c)
}

// identify returns who calls. A server of this region may speak for another node
// when it passes a request on; nobody else may.
func (s *Server) identify(r *http.Request) (id starling.Identity, passedOn bool, err error) {
	id, ok := starling.IdentityFrom(r.Context())
	if !ok {
		return id, false, fmt.Errorf("the caller is not authenticated: %w", starling.ErrForbidden)
	}
	header := r.Header.Values(rpc.HeaderPeer)
	if len(header) == 0 {
		return id, false, nil
	}
	if !id.Has(starling.RoleServer) || id.Region != s.cfg.Region {
		return id, false, fmt.Errorf("%s may not speak for others: %w", id, starling.ErrForbidden)
	}
	var peer starling.Identity
	if len(header) != 1 || len(header[0]) > maxPeerHeaderBytes || json.Unmarshal([]byte(header[0]), &peer) != nil || peer.Cluster != id.Cluster || peer.Name == "" {
		return id, false, starling.Invalidf(rpc.HeaderPeer, "is not an identity of this cluster")
	}
	return peer, true, nil
}

// decode reads a JSON body of bounded size.
func decode(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			return starling.Invalidf("body", "longer than %d bytes", long.Limit)
		}
		return fmt.Errorf("read the request: %w", errors.Join(starling.ErrUnavailable, err))
	}
	if err := json.Unmarshal(b, into); err != nil {
		return starling.Invalidf("body", "not valid JSON: %v", err)
	}
	return nil
}

// answer writes a JSON body.
func answer(w http.ResponseWriter, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return answerBytes(w, b)
}

func answerBytes(w http.ResponseWriter, b []byte) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the caller is gone: nobody is left to tell
	return nil
}

func answerNothing(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// blocking reads ?index= and ?wait=, the wait bounded by rpc.MaxWait.
func blocking(r *http.Request) (index uint64, wait time.Duration, err error) {
	q := r.URL.Query()
	if v := q.Get("index"); v != "" {
		if index, err = strconv.ParseUint(v, 10, 64); err != nil {
			return 0, 0, starling.Invalidf("index", "%.40q is not a number", v)
		}
	}
	if v := q.Get("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil {
			return 0, 0, starling.Invalidf("wait", "%.40q is not a duration", v)
		}
	}
	return index, max(0, min(wait, rpc.MaxWait)), nil
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request, _ *caller) error {
	st := rpc.Status{
		Name: s.cfg.Name, Region: s.cfg.Region, Bootstrapped: s.cfg.Raft.Bootstrapped(),
		Index: s.cfg.FSM.View().Index(),
	}
	if p, ok := s.cfg.Raft.Leader(); ok {
		st.Leader = p.Addr
	}
	t, _ := s.leading()
	st.IsLeader = t != nil
	own := s.cfg.Raft.PeerStats()
	st.LastContactMS, st.LastTerm, st.LastIndex = own.LastContact.Milliseconds(), own.LastTerm, own.LastIndex
	if own.LastContact < 0 {
		st.LastContactMS = -1
	}
	return answer(w, st)
}

func (s *Server) serveGoals(w http.ResponseWriter, r *http.Request, _ *caller) error {
	index, wait, err := blocking(r)
	if err != nil {
		return err
	}
	var reign *string
	if q := r.URL.Query(); q.Has("reign") {
		told := q.Get("reign")
		reign = &told
	}
	return answerBytes(w, s.goals.wait(r.Context(), index, reign, wait))
}

func (s *Server) serveWants(w http.ResponseWriter, r *http.Request, c *caller) error {
	index, wait, err := blocking(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.whileLeading(r.Context(), c.term)
	defer cancel()
	return answer(w, c.term.wants.wait(ctx, index, wait))
}

func (s *Server) serveCacheReport(w http.ResponseWriter, r *http.Request, c *caller) error {
	var report rpc.CacheReport
	if err := decode(r, &report); err != nil {
		return err
	}
	if report.Name != c.Name {
		return fmt.Errorf("%s cannot report for cache %.80q: %w", c, report.Name, starling.ErrForbidden)
	}
	if err := c.term.CacheReport(report, c.term.now()); err != nil {
		return err
	}
	c.term.poke()
	return answerNothing(w)
}

func (s *Server) serveMachineReports(w http.ResponseWriter, r *http.Request, c *caller) error {
	var reports []starling.MachineReport
	if err := decode(r, &reports); err != nil {
		return err
	}
	if len(reports) > rpc.MaxReports {
		return starling.Invalidf("reports", "%d, more than %d", len(reports), rpc.MaxReports)
	}
	for i := range reports {
		if reports[i].Node != c.Name {
			return fmt.Errorf("%s cannot report for machine %.80q: %w", c, reports[i].Node, starling.ErrForbidden)
		}
	}
	changed, err := c.term.MachineReports(s.cfg.FSM.View(), reports, c.term.now())
	if err != nil {
		return err
	}
	for i := range reports {
		c.term.accuse(reports[i].Node, reports[i].Distrusted)
	}
	if changed {
		c.term.poke()
	}
	return answerNothing(w)
}

// serveMirror answers as soon as there is something new, and otherwise soon enough
// for the directory and the placed list to be fresh.
func (s *Server) serveMirror(w http.ResponseWriter, r *http.Request, c *caller) error {
	index, wait, err := blocking(r)
	if err != nil {
		return err
	}
	echo, err := echoOf(r)
	if err != nil {
		return err
	}
	c.term.Echoed(c.Region, echo, index)
	ctx, cancel := s.whileLeading(r.Context(), c.term)
	defer cancel()
	var batch rpc.MirrorBatch
	had := s.cfg.FSM.View().PlacedAll()
	_, grown := c.term.drafts.all()
	over := time.After(min(wait, mirrorAnswerWithin))
	for waiting := true; waiting; {
		v := s.cfg.FSM.View()
		batch = c.term.Batch(v, index)
		if !emptyMirror(&batch.Mirror) || !slices.Equal(batch.Placed, had) {
			break
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-grown:
			grown, over = nil, time.After(min(wait, draftNewsEvery)) // what else grows meanwhile comes along
		case <-over:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	batch.Drafts, _ = c.term.drafts.all()
	batch.Standing = c.term.Standing(s.cfg.FSM.View(), c.term.now())
	return answer(w, batch)
}

func (s *Server) serveRegionReports(w http.ResponseWriter, r *http.Request, c *caller) error {
	var reports []starling.RegionReport
	if err := decode(r, &reports); err != nil {
		return err
	}
	if len(reports) > rpc.MaxReports {
		return starling.Invalidf("reports", "%d, more than %d", len(reports), rpc.MaxReports)
	}
	for i := range reports {
		if reports[i].Region != c.Region {
			return fmt.Errorf("%s cannot report for region %.80q: %w", c, reports[i].Region, starling.ErrForbidden)
		}
	}
	if err := c.term.RegionReports(s.cfg.FSM.View(), reports, c.term.now()); err != nil {
		return err
	}
	c.term.poke()
	return answerNothing(w)
}

// whileLeading returns a context that also ends with the term.
func (s *Server) whileLeading(ctx context.Context, t *term) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(t.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
