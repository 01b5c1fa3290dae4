package swarm

import "time"

// Config makes a Peer.
type Config struct {
	Self string // this machine's name
	// Seed breaks ties. Peers with different Self differ even with the same Seed.
	Seed uint64
	// MaxInFlightBytes bounds the chunks asked for and not yet had, over all
	// downloads; 0: DefaultInFlightBytes.
	MaxInFlightBytes int64
}

// Bounds. Each has its unit in its name.
const (
	DefaultInFlightBytes = 48 << 20 // all sources together
	UploadSlots          = 4        // chunks that a machine should send at once
	UploadQueueChunks    = 64       // requests that should wait before one is told busy
	MaxLinks             = 32       // dialled and accepted
	MaxDownloads         = 64       // artifacts at once; Begin beyond that is ignored
)

const (
	minDepthChunks    = 2                      // asked of one source at once, at least
	maxCacheDepth     = 2                      // chunks asked of one cache at once: all of the cell queue there
	maxDepthBytes     = 16 << 20               // asked of one source at once, at most
	minWindowChunks   = 6                      // asked of all peers at once, at least
	firstGuess        = 10 * time.Second       // for a chunk, before anything was measured
	maxSuspicions     = 8                      // chunks claimed and then denied before a peer is distrusted
	minSpell          = 100 * time.Millisecond // over which the rate is measured
	announceEvery     = 20 * time.Millisecond
	maxAnnounceChunks = 4096 // indices in one Announce; beyond that, All
)
