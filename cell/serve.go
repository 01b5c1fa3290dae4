package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// maxReportsBytes bounds the body of a member's reports.
const maxReportsBytes = 4 << 20

// Handler answers the members of the cell, and the servers of its region. The caller's
// identity must be in the request's context.
func (m *Member) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, rt := range map[string]struct {
		role  starling.Role
		serve func(r *http.Request, caller starling.Identity) (any, error)
	}{
		rpc.RouteCellFeed:    {starling.RoleMachine, m.serveFeed},
		rpc.RouteCellReports: {starling.RoleMachine, m.serveReports},
		rpc.RouteCellMachine: {starling.RoleServer, m.serveMachine},
		rpc.RouteCellMembers: {starling.RoleServer, m.serveMembers},
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := any(nil), m.authorize(r, rt.role)
			if err == nil {
				id, _ := starling.IdentityFrom(r.Context())
				r.Body = http.MaxBytesReader(w, r.Body, maxReportsBytes)
				answer, err = rt.serve(r, id)
			}
			if err != nil {
				rpc.WriteProblem(w, err)
				return
			}
			b, err := json.Marshal(answer)
			if err != nil {
				rpc.WriteProblem(w, fmt.Errorf("answer: %w", err))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(b) // the caller is gone: nobody is left to tell
		})
	}
	return mux
}

func (m *Member) authorize(r *http.Request, role starling.Role) error {
	id, ok := starling.IdentityFrom(r.Context())
	switch {
	case !ok:
		return fmt.Errorf("the caller is not authenticated: %w", starling.ErrForbidden)
	case !id.Has(role):
		return fmt.Errorf("%s is not a %s: %w", id, role, starling.ErrForbidden)
	case id.Region != m.conf.Node.Region:
		return fmt.Errorf("%s is not of region %s: %w", id, m.conf.Node.Region, starling.ErrForbidden)
	}
	return nil
}

func (m *Member) serveFeed(r *http.Request, caller starling.Identity) (any, error) {
	have, err := rpc.ParseFeedCursor(r.URL.Query())
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.brain.Answer(caller.Name, have), nil
}

func (m *Member) serveReports(r *http.Request, caller starling.Identity) (any, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			return nil, starling.Invalidf("body", "longer than %d bytes", long.Limit)
		}
		return nil, fmt.Errorf("read the reports: %w", errors.Join(starling.ErrUnavailable, err))
	}
	var reports []starling.MachineReport
	if err := json.Unmarshal(b, &reports); err != nil {
		return nil, starling.Invalidf("body", "not valid JSON: %v", err)
	}
	if len(reports) > rpc.MaxReports {
		return nil, starling.Invalidf("reports", "%d, more than %d", len(reports), rpc.MaxReports)
	}
	return m.take(caller.Name, reports)
}

func (m *Member) take(caller string, reports []starling.MachineReport) (rpc.CellReportsResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	term, err := m.brain.Take(time.Now(), caller, reports)
	m.nudge()
	return rpc.CellReportsResponse{Term: term}, err
}

func (m *Member) serveMachine(r *http.Request, _ starling.Identity) (any, error) {
	name := r.URL.Query().Get("name")
	m.mu.Lock()
	defer m.mu.Unlock()
	one, ok := m.brain.Member(name)
	if !ok {
		return nil, fmt.Errorf("machine %.80q is not in cell %.80q: %w", name, m.brain.place.Cell, starling.ErrNotFound)
	}
	return one, nil
}

func (m *Member) serveMembers(*http.Request, starling.Identity) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]rpc.CellMember, 0, len(m.brain.view.nodes))
	for i := range m.brain.view.nodes {
		one, _ := m.brain.Member(m.brain.view.nodes[i].Name)
		out = append(out, one)
	}
	return out, nil
}
