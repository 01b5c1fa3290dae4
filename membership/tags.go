package membership

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

// Keys of the tags that Serf carries; see the package documentation.
const (
	tagCluster  = "c"
	tagRegion   = "g"
	tagRoles    = "r"
	tagZone     = "z"
	tagRack     = "k"
	tagAddr     = "q"
	tagHTTP     = "h"
	tagCell     = "l"
	prefixFree  = "."
	prefixOwned = "_"
)

var roleLetters = []struct {
	role   starling.Role
	letter string
}{
	{starling.RoleServer, "s"},
	{starling.RoleCache, "c"},
	{starling.RoleWorker, "w"},
	{starling.RoleMachine, "m"},
}

// encodeTags returns the Serf tags of a node with its reserved tags. It fails with a
// field error when their encoding exceeds what gossip can carry.
func encodeTags(cluster, cell string, n *starling.Node, reserved map[string]string) (map[string]string, error) {
	tags := map[string]string{tagCluster: cluster, tagRegion: n.Region}
	for _, r := range n.Roles {
		if !slices.Contains(starling.Roles, r) {
			return nil, starling.Invalidf("roles", "%.40q is not a role", string(r))
		}
	}
	var letters strings.Builder
	for _, l := range roleLetters {
		if n.Has(l.role) {
			letters.WriteString(l.letter)
		}
	}
	for k, v := range map[string]string{
		tagRoles: letters.String(), tagZone: n.Zone, tagRack: n.Rack, tagAddr: n.Addr, tagHTTP: n.HTTP, tagCell: cell,
	} {
		if v != "" {
			tags[k] = v
		}
	}
	for k, v := range n.Tags {
		if k == "" {
			return nil, starling.Invalidf("tags", "a tag has an empty name")
		}
		tags[prefixFree+k] = v
	}
	for k, v := range reserved {
		tags[prefixOwned+k] = v
	}
	size, err := encodedTagBytes(tags)
	if err != nil {
		return nil, err
	}
	if size > memberlist.MetaMaxSize {
		return nil, starling.Invalidf("tags", "zone, rack, addresses and tags of %s take %d bytes of the %d that gossip carries: shorten or drop some",
			n.Name, size, memberlist.MetaMaxSize)
	}
	return tags, nil
}

// encodedTagBytes is the size of tags as Serf sends them: one magic byte and a msgpack map.
func encodedTagBytes(tags map[string]string) (int, error) {
	var buf bytes.Buffer
	if err := codec.NewEncoder(&buf, &codec.MsgpackHandle{}).Encode(tags); err != nil {
		return 0, fmt.Errorf("encode tags: %w", err)
	}
	return 1 + buf.Len(), nil
}

// decodeNode returns the node that a member announces. Unknown tags and role letters,
// of a later version perhaps, are passed over.
func decodeNode(m *serf.Member) starling.Node {
	n := starling.Node{
		Name:   m.Name,
		Region: m.Tags[tagRegion],
		Zone:   m.Tags[tagZone],
		Rack:   m.Tags[tagRack],
		Addr:   m.Tags[tagAddr],
		HTTP:   m.Tags[tagHTTP],
		Alive:  stateOf(m.Status) == StateAlive,
	}
	for _, l := range roleLetters {
		if strings.Contains(m.Tags[tagRoles], l.letter) {
			n.Roles = append(n.Roles, l.role)
		}
	}
	for k, v := range m.Tags {
		if k, ok := strings.CutPrefix(k, prefixFree); ok && k != "" {
			if n.Tags == nil {
				n.Tags = make(map[string]string)
			}
			n.Tags[k] = v
		}
	}
	return n
}

// gate refuses members of another cluster, region or cell, and malformed ones, before they
// enter the pool, by join or by gossip.
type gate struct {
	cluster, region, cell string
	seen                  func(*serf.Member) // told of every member that passes; must not wait
}

// NotifyMerge implements serf.MergeDelegate.
func (g gate) NotifyMerge(members []*serf.Member) error {
	for _, m := range members {
		if err := starling.CheckName("name", m.Name); err != nil {
			return fmt.Errorf("member refused: %w", err)
		}
		for _, t := range []struct{ what, key, ours string }{
			{"cluster", tagCluster, g.cluster}, {"region", tagRegion, g.region}, {"cell", tagCell, g.cell},
		} {
			if theirs := m.Tags[t.key]; theirs != t.ours {
				return fmt.Errorf("member %s refused: it is of %s %.63q, this is %s %q", m.Name, t.what, theirs, t.what, t.ours)
			}
		}
		g.seen(m)
	}
	return nil
}

// State is what gossip knows of a member's whereabouts.
type State string

// The states. A member that is about to leave is still alive.
const (
	StateUnknown State = ""       // not a member
	StateAlive   State = "alive"  //
	StateLeft    State = "left"   // gracefully, or by ForceLeave
	StateFailed  State = "failed" // silent; it may come back
)

func stateOf(s serf.MemberStatus) State {
	switch s {
	case serf.StatusAlive, serf.StatusLeaving:
		return StateAlive
	case serf.StatusLeft:
		return StateLeft
	default:
		return StateFailed
	}
}
