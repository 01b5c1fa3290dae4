package starling

import "time"

// MaxListedNodes bounds a list of nodes.
const MaxListedNodes = 1000

// NodeFilter chooses among the members of a region and its machines; what is empty chooses all.
type NodeFilter struct {
	Role  Role
	Cell  string
	Zone  string
	State string // alive, dead, or a standing
	After string // of those whose names come after this one
	Limit int    // 1 to MaxListedNodes; 0: as many
}

// The states that a filter knows beside the standings.
const (
	NodeAlive = "alive"
	NodeDead  = "dead"
)

// Check refuses a filter that chooses nothing by mistake.
func (f *NodeFilter) Check() error {
	switch f.State {
	case "", NodeAlive, NodeDead, string(StandingActive), string(StandingDraining), string(StandingRevoked):
	default:
		return Invalidf("state", "%.40q: use alive, dead, active, draining or revoked", f.State)
	}
	switch f.Role {
	case "", RoleServer, RoleCache, RoleWorker, RoleMachine:
	default:
		return Invalidf("role", "%.40q: use server, cache, worker or machine", string(f.Role))
	}
	if f.Limit < 0 || f.Limit > MaxListedNodes {
		return Invalidf("limit", "%d: use 1 to %d", f.Limit, MaxListedNodes)
	}
	return nil
}

// Matches reports whether a filter chooses a node, its page aside.
func (f *NodeFilter) Matches(n *NodeStatus) bool {
	switch f.State {
	case "":
	case NodeAlive, NodeDead:
		if n.Alive != (f.State == NodeAlive) {
			return false
		}
	default:
		if string(n.Standing) != f.State {
			return false
		}
	}
	return (f.Role == "" || n.Has(f.Role)) && (f.Cell == "" || n.Cell == f.Cell) && (f.Zone == "" || n.Zone == f.Zone)
}

// StandingChange changes what a region makes of a machine.
type StandingChange struct {
	Name    string
	To      Standing
	From    Standing // that it must have, or To; empty: any
	Unknown bool     // revoke it also if no machine of that name is known
}

// NodeDetail is all that a region knows of one node.
type NodeDetail struct {
	NodeStatus
	Machine *Machine        `json:"machine,omitempty"` // its record, if it is enrolled
	Reports []MachineReport `json:"reports,omitempty"` // its last ones, as it or its cell tells
	Unasked string          `json:"unasked,omitempty"` // why its cell could not be asked
}

// CellStatus is a cell with what it last reported of itself.
type CellStatus struct {
	Cell
	Alive    int      `json:"alive"`              // machines that it sees
	Speakers []string `json:"speakers,omitempty"` // who reports; more than one if it is in parts
	SilentMS int64    `json:"silent_ms"`          // since the last report; -1: none under this leader
}

// NewJoinToken asks for a join token.
type NewJoinToken struct {
	Name string            `json:"name,omitempty"`
	Uses int               `json:"uses"` // machines that may come with it; 0: 1
	TTL  Duration          `json:"ttl"`  // 0: 24 h
	Zone string            `json:"zone,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
}

// The defaults of a NewJoinToken.
const (
	DefaultJoinTokenUses = 1
	DefaultJoinTokenTTL  = 24 * time.Hour
)

// IssuedJoinToken is the only time that a join token is shown.
type IssuedJoinToken struct {
	JoinToken
	Text string `json:"text"`
}
