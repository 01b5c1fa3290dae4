package transport

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
)

// Kind says what a stream carries. It is the first byte of the stream.
type Kind byte

// The kinds of streams.
const (
	KindRaft    Kind = 1 // hashicorp/raft's NetworkTransport
	KindControl Kind = 2 // HTTP/1.1
	KindBlob    Kind = 3 // blob protocol
	KindSwarm   Kind = 4 // availability between two machines
	KindCell    Kind = 5 // HTTP/1.1 within a cell, and from servers to its relays
	KindEnrol   Kind = 6 // HTTP/1.1 from machines that have no certificate yet, on connections of their own
)

const maxKind = KindEnrol

// scope says how far apart the two ends of a stream may be.
type scope byte

const (
	anywhere       scope = iota
	oneRegion            // both ends in one region
	machinesAtHome       // as oneRegion, for a caller that is nothing but a machine
)

// rules is the table of who may open which kind of stream to whom. The two ends are always
// of one cluster: the handshake sees to that.
func (k Kind) rule() (r rule, ok bool) {
	switch k {
	case KindRaft:
		server := []starling.Role{starling.RoleServer}
		return rule{"raft", server, server, oneRegion, 1}, true
	case KindControl:
		return rule{"control", starling.Roles, []starling.Role{starling.RoleServer}, anywhere, 2}, true
	case KindBlob:
		return rule{"blob", starling.Roles, []starling.Role{starling.RoleCache, starling.RoleMachine}, machinesAtHome, 5}, true
	case KindSwarm:
		machine := []starling.Role{starling.RoleMachine}
		return rule{"swarm", machine, machine, oneRegion, 3}, true
	case KindCell:
		return rule{"cell", []starling.Role{starling.RoleMachine, starling.RoleServer}, []starling.Role{starling.RoleMachine}, oneRegion, 2}, true
	case KindEnrol: // whoever has a certificate has no need to
		return rule{"enrol", nil, []starling.Role{starling.RoleServer}, anywhere, 2}, true
	}
	return rule{}, false
}

type rule struct {
	name    string
	caller  []starling.Role // any of them
	far     []starling.Role // any of them
	scope   scope
	urgency int8 // RFC 9218: 0 goes first, 7 last
}

func (k Kind) String() string {
	if r, ok := k.rule(); ok {
		return r.name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// refuse holds a stream of kind k from caller to far against the table: codeNone if it may be.
func (k Kind) refuse(caller, far starling.Identity) code {
	r, ok := k.rule()
	switch {
	case !ok:
		return codeUnknownKind
	case !hasAny(caller, r.caller):
		return codeCallerRole
	case !hasAny(far, r.far):
		return codeFarRole
	case caller.Region == far.Region || r.scope == anywhere:
		return codeNone
	case r.scope == oneRegion || !hasAny(caller, beyondMachine()):
		return codeRegion
	}
	return codeNone
}

func beyondMachine() []starling.Role {
	return []starling.Role{starling.RoleServer, starling.RoleCache, starling.RoleWorker}
}

func hasAny(id starling.Identity, roles []starling.Role) bool {
	return slices.ContainsFunc(roles, id.Has)
}

func roleNames(roles []starling.Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, " or ")
}
