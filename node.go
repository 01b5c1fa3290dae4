package starling

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Role is a part that a process plays. One process may play several.
type Role string

// The roles.
const (
	RoleServer  Role = "server"
	RoleCache   Role = "cache"
	RoleWorker  Role = "worker"
	RoleMachine Role = "machine"
)

// Roles lists all roles.
var Roles = []Role{RoleServer, RoleCache, RoleWorker, RoleMachine}

// Node is a member of a region, as gossip knows it.
type Node struct {
	Name   string            `json:"name"`
	Region string            `json:"region"`
	Zone   string            `json:"zone,omitempty"`
	Rack   string            `json:"rack,omitempty"`
	Roles  []Role            `json:"roles"`
	Tags   map[string]string `json:"tags,omitempty"` // free tags
	Addr   string            `json:"addr"`           // host:port of its QUIC endpoint
	HTTP   string            `json:"http,omitempty"` // host:port of its HTTP API; servers only
	Alive  bool              `json:"alive"`
}

// Has reports whether n plays r.
func (n *Node) Has(r Role) bool { return slices.Contains(n.Roles, r) }

// Identity is what a verified certificate says of its holder.
type Identity struct {
	Cluster string
	Region  string
	Name    string
	Roles   []Role
}

// Has reports whether id may act as r.
func (id Identity) Has(r Role) bool { return slices.Contains(id.Roles, r) }

func (id Identity) String() string {
	return fmt.Sprintf("%s/%s %v", id.Region, id.Name, id.Roles)
}

type identityKey struct{}

// WithIdentity returns a context that carries the verified identity of the peer.
func WithIdentity(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}

// IdentityFrom returns the peer's identity, and false if the caller was not authenticated.
func IdentityFrom(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// Selector chooses machines by name, region, zone, rack and free tags. Its text is
// terms joined by "and": `role == web and zone != b and rack in (r1, r2)`.
// The empty selector chooses every machine.
type Selector struct{ terms []term }

type term struct {
	key    string
	negate bool
	values []string
}

const word = `[A-Za-z0-9_.:/-]+`

var (
	andRE = regexp.MustCompile(`\s+(?:and|&&)\s+`)
	cmpRE = regexp.MustCompile(`^(` + word + `)\s*(==|!=)\s*"?(` + word + `)"?$`)
	inRE  = regexp.MustCompile(`^(` + word + `)\s+(not\s+)?in\s*[(\[]([^)\]]*)[)\]]$`)
)

// ParseSelector reads a selector's text of 1,000 bytes at most.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	if len(s) > 1000 {
		return sel, Invalidf("deploy.targets", "longer than 1000 bytes")
	}
	if strings.TrimSpace(s) == "" {
		return sel, nil
	}
	for _, part := range andRE.Split(strings.TrimSpace(s), -1) {
		if m := cmpRE.FindStringSubmatch(part); m != nil {
			sel.terms = append(sel.terms, term{m[1], m[2] == "!=", []string{m[3]}})
		} else if m := inRE.FindStringSubmatch(part); m != nil {
			t := term{key: m[1], negate: m[2] != ""}
			for _, v := range strings.Split(m[3], ",") {
				if v = strings.Trim(strings.TrimSpace(v), `"`); v != "" {
					t.values = append(t.values, v)
				}
			}
			sel.terms = append(sel.terms, t)
		} else {
			return sel, Invalidf("deploy.targets", "cannot read %.100q: use terms like `role == web`, `zone != b`, `rack in (r1, r2)` joined by `and`", part)
		}
	}
	return sel, nil
}

// Matches reports whether the selector chooses n.
func (s Selector) Matches(n *Node) bool {
	for _, t := range s.terms {
		var v string
		switch t.key {
		case "name":
			v = n.Name
		case "region":
			v = n.Region
		case "zone":
			v = n.Zone
		case "rack":
			v = n.Rack
		default:
			v = n.Tags[t.key]
		}
		if slices.Contains(t.values, v) == t.negate {
			return false
		}
	}
	return true
}
