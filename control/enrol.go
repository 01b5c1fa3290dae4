package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// Bounds of enrolment.
const (
	maxEnrolling      = 64                     // requests under way at one server
	enrolQueueWithin  = 500 * time.Millisecond // that a request waits for its turn
	enrolWithin       = 10 * time.Second       // that it then may take, a vacant lead included
	maxEnrolBodyBytes = 64 << 10
	revokedEvery      = 250 * time.Millisecond // between two looks at who is revoked
)

// Enrolment lets machines without a certificate in.
type Enrolment struct {
	// Sign makes a machine's certificate; *pki.Enroller has the method.
	Sign func(name string, key ed25519.PublicKey, ttl time.Duration, now time.Time) (chainPEM []byte, err error)
	CA   []byte        // the cluster's CA certificates in PEM, for the machines
	TTL  time.Duration // of a machine's certificate; 0: pki.DefaultMachineTTL
}

func (e *Enrolment) setDefaults() error {
	if e == nil {
		return nil
	}
	if e.Sign == nil || len(e.CA) == 0 {
		return errors.New("control: Enrolment needs Sign and CA")
	}
	if e.TTL == 0 {
		e.TTL = pki.DefaultMachineTTL
	}
	if e.TTL < pki.MinMachineTTL {
		return starling.Invalidf("tls.machine_ttl", "%s is less than %s", e.TTL, pki.MinMachineTTL)
	}
	return nil
}

// EnrolHandler answers callers without a certificate, who may ask for one and nothing else.
func (s *Server) EnrolHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(rpc.RouteEnrol, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		r.Body = http.MaxBytesReader(w, r.Body, maxEnrolBodyBytes)
		res, err := s.enrol(r)
		s.metrics.enrolled(err)
		if err == nil {
			err = answer(w, res)
		}
		if err != nil {
			if rpc.ProblemOf(err).Status == http.StatusInternalServerError {
				s.cfg.Logger.Error("enrolment failed", "err", err)
			}
			rpc.WriteProblem(w, err)
		}
	})
	return mux
}

// enrol does what is costly here, at whatever server the machine has come to, and asks the leader
// only whether it may be let in.
func (s *Server) enrol(r *http.Request) (*rpc.EnrolResponse, error) {
	if s.cfg.Enrolment == nil {
		return nil, fmt.Errorf("server %s enrols nobody: %w", s.cfg.Name, starling.ErrForbidden)
	}
	ctx, cancel := context.WithTimeout(r.Context(), enrolWithin)
	defer cancel()
	turn := time.NewTimer(enrolQueueWithin)
	defer turn.Stop()
	select {
	case s.enrolling <- struct{}{}:
		defer func() { <-s.enrolling }()
	case <-turn.C:
		return nil, &starling.BusyError{What: "too many machines enrol at this server", After: 2*enrolQueueWithin + rand.N(4*enrolQueueWithin)}
	case <-ctx.Done():
		return nil, fmt.Errorf("enrol: %w", starling.ErrUnavailable)
	}
	var req rpc.EnrolRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	key, admission, err := s.admission(&req)
	if err != nil {
		return nil, err
	}
	ticket, err := s.askLeader(ctx, admission)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	cert, err := s.cfg.Enrolment.Sign(req.Name, key, s.cfg.Enrolment.TTL, now)
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", req.Name, err)
	}
	return &rpc.EnrolResponse{CA: s.cfg.Enrolment.CA, Cert: cert, Now: now, Ticket: ticket}, nil
}

// admission checks what this server can by itself.
func (s *Server) admission(req *rpc.EnrolRequest) (ed25519.PublicKey, rpc.Admission, error) {
	a := rpc.Admission{RegisterRequest: rpc.RegisterRequest{Name: req.Name, Zone: req.Zone, Rack: req.Rack, Tags: req.Tags, Gossip: req.Gossip}}
	if err := sameTime(req.At, s.cfg.Now(), s.cfg.Name); err != nil {
		return nil, a, err
	}
	if err := starling.CheckName("name", req.Name); err != nil {
		return nil, a, err
	}
	key, err := pki.ParseCSR(req.CSR)
	if err != nil {
		return nil, a, err
	}
	a.Key = pki.KeyDigest(key)
	if req.Token != "" {
		text, err := starling.ParseJoinToken(req.Token)
		if err != nil {
			return nil, a, err
		}
		a.Token, a.Hash = text.ID, text.Hash()
	}
	return key, a, nil
}

// sameTime refuses a machine whose clock certificates would not survive.
func sameTime(machine, server time.Time, name string) error {
	off := machine.Sub(server)
	if off.Abs() <= rpc.MaxClockOff {
		return nil
	}
	word := "ahead"
	if off < 0 {
		word = "behind"
	}
	return fmt.Errorf("%w: this machine's says %s, that of server %s says %s: it is %s %s, and %s is allowed; set the wrong one, and start again",
		starling.ErrClock, machine.UTC().Format(time.RFC3339), name, server.UTC().Format(time.RFC3339), off.Abs().Round(time.Second), word, rpc.MaxClockOff)
}

// askLeader has a machine admitted, here if this server leads.
func (s *Server) askLeader(ctx context.Context, a rpc.Admission) (rpc.Ticket, error) {
	t, leader, err := s.place(ctx, enrolWithin/2)
	switch {
	case err != nil:
		return rpc.Ticket{}, err
	case t != nil:
		return s.admit(ctx, t, a)
	}
	c := rpc.Client{HTTP: &http.Client{Transport: toLocalLeader{s, leader}}}
	return c.Admit(ctx, a)
}

func (s *Server) serveAdmit(w http.ResponseWriter, r *http.Request, c *caller) error {
	var a rpc.Admission
	if err := decode(r, &a); err != nil {
		return err
	}
	ticket, err := s.admit(r.Context(), c.term, a)
	if err != nil {
		return err
	}
	return answer(w, ticket)
}

// admit is the leader's word on a machine. One whose key is on the roster has enrolled before:
// its answer was lost, or its certificate expired while it was off. It needs no token.
func (s *Server) admit(ctx context.Context, t *term, a rpc.Admission) (rpc.Ticket, error) {
	facts := raftfsm.MachineFacts{Name: a.Name, Zone: a.Zone, Rack: a.Rack, Tags: a.Tags, Gossip: a.Gossip}
	v := s.cfg.FSM.View()
	if m, ok := v.Machine(a.Name); ok && !a.Key.IsZero() && m.Key == a.Key {
		return s.register(ctx, t, facts)
	}
	if a.Token == "" {
		return rpc.Ticket{}, fmt.Errorf("%w: region %s has no machine %s with this key: it needs a join token", starling.ErrForbidden, s.cfg.Region, a.Name)
	}
	enrol := raftfsm.MachineEnrol{MachineFacts: facts, Key: a.Key, Token: a.Token, Hash: a.Hash, Max: s.cfg.CellMax}
	if err := v.MayEnrol(&enrol, t.now()); err != nil {
		return rpc.Ticket{}, err
	}
	res, err := s.propose(ctx, "machine:"+a.Name, raftfsm.TypeMachineEnrol, enrol)
	if err != nil {
		return rpc.Ticket{}, err
	}
	return s.ticket(t, s.cfg.FSM.View(), res.Machine)
}

// serveRenew signs a new certificate for a machine that has enrolled, and for the key that it
// enrolled with: any server can, and nothing is written.
func (s *Server) serveRenew(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.RenewRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	res, err := s.renew(&req, c)
	s.metrics.renewed(err)
	if err != nil {
		return err
	}
	return answer(w, res)
}

func (s *Server) renew(req *rpc.RenewRequest, c *caller) (*rpc.RenewResponse, error) {
	if s.cfg.Enrolment == nil {
		return nil, fmt.Errorf("server %s has no enrolment authority to renew with: %w", s.cfg.Name, starling.ErrUnavailable)
	}
	key, err := pki.ParseCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	m, ok := s.cfg.FSM.View().Machine(c.Name)
	switch {
	case !slices.Equal(c.Roles, []starling.Role{starling.RoleMachine}), ok && m.Key.IsZero():
		return nil, fmt.Errorf("%w: the certificate of %s was made by hand: make the next with `starling tls cert create`", starling.ErrForbidden, c)
	case !ok:
		return nil, fmt.Errorf("%w: machine %s was removed from region %s: enrol it anew", starling.ErrForbidden, c.Name, s.cfg.Region)
	case m.Standing == starling.StandingRevoked:
		return nil, fmt.Errorf("%w: machine %s was revoked", starling.ErrForbidden, c.Name)
	case m.Key != pki.KeyDigest(key):
		return nil, fmt.Errorf("%w: machine %s enrolled with another key", starling.ErrForbidden, c.Name)
	}
	cert, err := s.cfg.Enrolment.Sign(c.Name, key, s.cfg.Enrolment.TTL, s.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("renew %s: %w", c.Name, err)
	}
	return &rpc.RenewResponse{Cert: cert}, nil
}

// watchRevoked tells whoever refuses connections which machines are revoked, as soon as this
// server's state says so.
func (s *Server) watchRevoked(ctx context.Context) error {
	var told []string
	for {
		v := s.cfg.FSM.View()
		var now []string
		for _, m := range v.MachinesIn(starling.StandingRevoked) {
			now = append(now, m.Name)
		}
		if !slices.Equal(told, now) {
			s.cfg.Revoked(now)
			told = now
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return nil
		}
		if sleep(ctx, revokedEvery) != nil {
			return nil
		}
	}
}
