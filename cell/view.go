package cell

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// Word is what a member says of itself in the pool, beside its node.
type Word struct {
	Term  uint64 // of a speaker: what members told another term is forgotten; 0: it does not speak
	Moves uint64 // of a relay: the newest roster in which members were missing
	Muted bool   // it reaches no server, and stands back from relaying
}

// String encodes a word in 40 bytes at most, for a tag; empty if it says nothing.
func (w Word) String() string {
	if w == (Word{}) {
		return ""
	}
	muted := 0
	if w.Muted {
		muted = 1
	}
	return fmt.Sprintf("%x.%x.%d", w.Term, w.Moves, muted)
}

// ParseWord reads what String wrote; anything else says nothing.
func ParseWord(s string) Word {
	var w Word
	var muted int
	if n, err := fmt.Sscanf(s, "%x.%x.%d", &w.Term, &w.Moves, &muted); n != 3 || err != nil {
		return Word{}
	}
	w.Muted = muted == 1
	return w
}

// View is one look at the pool, and who relays and speaks by it. It is not changed once
// made, and may be shared by members that see the same.
type View struct {
	nodes  []starling.Node // sorted by name
	words  map[string]Word
	relays []string // best first
	alive  int
	moves  uint64
	muted  int
}

// NewView elects the relays among the living members: by rendezvous, so that losing
// one changes only its own place. Nodes must be sorted by name and are kept. Words may be nil, as may
// barred, which excludes members whose certificates are void. Muted members relay only if all are.
func NewView(cell string, nodes []starling.Node, words map[string]Word, barred func(name string) bool) *View {
	v := &View{nodes: nodes, words: words}
	var able, muted []string
	for i := range nodes {
		name := nodes[i].Name
		w := words[name]
		if !nodes[i].Alive || barred != nil && barred(name) {
			continue
		}
		v.alive++
		v.moves = max(v.moves, w.Moves)
		if w.Muted {
			muted = append(muted, name)
		} else {
			able = append(able, name)
		}
	}
	v.muted = len(muted)
	if len(able) == 0 {
		able = muted
	}
	v.relays = Rank(cell, able, rpc.CellRelays)
	return v
}

// Rank returns those n of the names that relay a cell, the speaker first.
func Rank(cell string, names []string, n int) []string {
	return starling.Rendezvous(starling.DigestOf([]byte("cell "+cell)), names, n)
}

// Relays returns the names of the relays, the speaker first.
func (v *View) Relays() []string { return v.relays }

// Speaker returns who speaks for the cell; empty: nobody is alive.
func (v *View) Speaker() string {
	if len(v.relays) == 0 {
		return ""
	}
	return v.relays[0]
}

// Alive returns the number of living members.
func (v *View) Alive() int { return v.alive }

// Node returns a member, or nil. It must not be changed.
func (v *View) Node(name string) *starling.Node {
	i, ok := slices.BinarySearchFunc(v.nodes, name, func(n starling.Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return &v.nodes[i]
}

// living returns a member that is alive, or nil.
func (v *View) living(name string) *starling.Node {
	if n := v.Node(name); n != nil && n.Alive {
		return n
	}
	return nil
}
