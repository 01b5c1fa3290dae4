package swarm

import (
	"time"

	"github.com/starlingdeploy/starling"
)

// Event is something that happened to a peer. The types below are all there are.
type Event interface{ event() }

// Begin starts a download, or with Seed only the serving of what is held. Beginning
// an artifact again replaces Have, Priority and Seed. Members for the artifact should
// follow at once: without them there are neither neighbours nor a share to fetch.
type Begin struct {
	Artifact starling.Digest
	// Chunks are the manifest's, in order. The peer keeps the slice: it must not change.
	Chunks []starling.Chunk
	// Have holds the chunks that are verified on disk already. nil: none, or for an
	// artifact that has begun already, those that were.
	Have Bitmap
	// Priority: higher goes first. Equal priorities share by bytes.
	Priority int
	// Seed is set for a machine that does not want the artifact but holds parts of it.
	Seed bool
}

// End forgets an artifact: its fetches are cancelled, its links given up unless
// another artifact needs them.
type End struct{ Artifact starling.Digest }

// Member is a live machine that takes part in a download.
type Member struct {
	Name string // unique in the region
	Zone string
	Rack string
}

// Members says which live machines take part in the swarm of an artifact that has
// begun (those the goal targets), self included if it is to fetch a share from the
// caches. Each such event replaces the one before. The peer keeps the slice: it must
// not change.
type Members struct {
	Artifact starling.Digest
	Members  []Member
}

// Origins names the region's live caches. Each such event replaces the one before.
type Origins struct{ Names []string }

// PeerUp says that a link to a peer stands, whoever dialled. The runner sends it once
// per link, and resolves two links to one peer before it does.
type PeerUp struct{ Peer string }

// PeerDown says that a link ended or that a Connect failed.
type PeerDown struct{ Peer string }

// PeerHas is a peer's announcement, as it came over the link: an Announce of its
// brain. All, if not nil, replaces what was known; Chunks adds. Hello asks for an
// answer with all that is held here. Contents are not trusted: a bitmap of the wrong
// length or an index out of range is the peer's fault and makes it distrusted;
// artifacts that have not begun here are ignored.
type PeerHas struct {
	Peer     string
	Artifact starling.Digest
	Hello    bool
	All      Bitmap
	Chunks   []uint32
}

// Request names one chunk asked of one source. It is what a Fetch, its CancelFetch
// and its Got or Failed have in common; it can be a map's key.
type Request struct {
	Artifact starling.Digest
	Chunk    int
	From     string
	Origin   bool // From is a cache (which may have a machine's name); else a peer
}

// Got ends a Fetch well: the chunk was received, verified against its digest and
// written. Took runs from the Fetch to the last byte. A Got that crosses a
// CancelFetch is welcome.
type Got struct {
	Request
	Took time.Duration
}

// Held says that a chunk came to hand without a Fetch: cloned from another release,
// or a twin of a chunk that arrived.
type Held struct {
	Artifact starling.Digest
	Chunks   []uint32
}

// Lost says that chunks thought held are not (the disk lost or spoiled them).
type Lost struct {
	Artifact starling.Digest
	Chunks   []uint32
}

// Failed ends a Fetch badly. After says when a busy source wants to be asked again; 0: it
// did not say.
type Failed struct {
	Request
	Reason Reason
	After  time.Duration
}

// Reason says why a Fetch failed.
type Reason uint8

// The reasons.
const (
	ReasonCorrupt   Reason = iota + 1 // the bytes do not match the digest
	ReasonMissing                     // the source says that it lacks the chunk
	ReasonTimeout                     // the runner's own time-out; the brain sets tighter ones
	ReasonGone                        // the connection broke
	ReasonBusy                        // the source has too much to do: ask again soon
	ReasonCancelled                   // by CancelFetch
	ReasonLocal                       // this machine's fault (disk, memory): no source is to blame
)

func (r Reason) String() string {
	switch r {
	case ReasonCorrupt:
		return "corrupt"
	case ReasonMissing:
		return "missing"
	case ReasonTimeout:
		return "timeout"
	case ReasonGone:
		return "gone"
	case ReasonBusy:
		return "busy"
	case ReasonCancelled:
		return "cancelled"
	case ReasonLocal:
		return "local"
	}
	return "unknown"
}

// Tick says only that time has passed: the answer to WakeAt.
type Tick struct{}

func (Begin) event()    {}
func (End) event()      {}
func (Members) event()  {}
func (Origins) event()  {}
func (PeerUp) event()   {}
func (PeerDown) event() {}
func (PeerHas) event()  {}
func (Got) event()      {}
func (Held) event()     {}
func (Lost) event()     {}
func (Failed) event()   {}
func (Tick) event()     {}

// Effect is something that the runner is to do. The types below are all there are.
type Effect interface{ effect() }

// Connect asks for a link to a peer; PeerUp or PeerDown answers it.
type Connect struct{ Peer string }

// Disconnect ends a link. No PeerDown is needed; one does no harm.
type Disconnect struct{ Peer string }

// Fetch asks for one chunk; a Got or a Failed with the same Request answers it.
// Several may run to one source; the same chunk may be asked of two sources, and the
// runner keeps the first that verifies. A cache that lacks the chunk may be left Wait for
// it to come.
type Fetch struct {
	Request
	Wait time.Duration
}

// CancelFetch takes a Fetch back. The brain has forgotten it: an answer is not
// needed, and does no harm. The same Request may follow again later.
type CancelFetch struct{ Request }

// Announce is to be sent over the link to a peer, where it becomes a PeerHas.
// Announcements to one peer must arrive in order. All and Chunks stay as they are, for as
// long as the runner needs them; it must not change them.
type Announce struct {
	To       string
	Artifact starling.Digest
	Hello    bool
	All      Bitmap
	Chunks   []uint32
}

// Done says that every chunk of an artifact is held. It keeps being announced until End.
type Done struct{ Artifact starling.Digest }

// Distrust says that a source sent wrong bytes or broke the protocol. A peer is
// never linked to again in this Peer's life: the runner should refuse it too. A cache
// (Origin) is only left alone for a while. Disconnect is implied.
type Distrust struct {
	Peer   string
	Reason string // for people
	Origin bool
}

// WakeAt asks for a Tick at a time, on Step's clock. It replaces the WakeAt before it;
// without one, a pending Tick still stands.
type WakeAt struct{ At time.Duration }

func (Connect) effect()     {}
func (Disconnect) effect()  {}
func (Fetch) effect()       {}
func (CancelFetch) effect() {}
func (Announce) effect()    {}
func (Done) effect()        {}
func (Distrust) effect()    {}
func (WakeAt) effect()      {}
