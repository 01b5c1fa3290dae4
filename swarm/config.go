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

// Bounds for runners.
const (
	DefaultInFlightBytes = 48 << 20 // all sources together
	UploadSlots          = 4        // chunks that a machine should send at once
	UploadQueueChunks    = 64       // requests that should wait before one is told busy
	// SlotPatience is after how long a chunk that is still being sent should no longer
	// count against UploadSlots, at the latest: see SendPace.
	SlotPatience = 2 * time.Second
	MaxLinks     = 32 // dialled and accepted
	MaxDownloads = 64 // artifacts at once; Begin beyond that is ignored
)

// Links.
const (
	targetLinks   = 10                     // neighbours wanted; in a swarm of no more, everybody is one
	crowdedLinks  = 2 * targetLinks        // beyond it, links that are no longer wanted go
	maxIdlePeers  = 256                    // records of peers without a link; beyond it old ones go
	dialPatience  = 300 * time.Millisecond // lets the lesser name of two dial first, so that they rarely cross
	dialEvery     = 500 * time.Millisecond // after a failed dial; doubles
	maxDialWait   = 30 * time.Second
	dialTimeout   = 20 * time.Second // if the runner never answers
	avoidAfter    = 4                // failed dials, before another neighbour is taken instead
	avoidFor      = 60 * time.Second
	announceEvery = 20 * time.Millisecond
	maxNewsChunks = 4096 // indices in one Announce; beyond it, All
	maxSuspicions = 8    // chunks announced and then denied before a peer is distrusted
)

// Pipelines. Delays are multiples of what was measured; the constants are floors and ceilings.
const (
	depthGain       = 2.0                    // in flight to a source, in units of its bandwidth-delay product
	minDepthChunks  = 2                      // asked of one peer at once, at least
	maxDepthBytes   = 16 << 20               // asked of one peer at once, at most
	maxCacheChunks  = 2                      // asked of one cache at once
	cacheCrowd      = 8                      // members for each cache from which one chunk at once keeps it busy
	windowGain      = 0.8                    // in flight from all peers, in units of the whole's product
	minWindowChunks = 5                      // asked of all peers at once, at least
	minSpell        = 100 * time.Millisecond // over which the rate is measured
	cacheDraws      = 4                      // chunks tried for one whose cache has room
	firstGuess      = 4 * time.Second        // for a chunk, before anything was measured
	firstDoubt      = 500 * time.Millisecond // for a peer's first chunk, before its word counts for less
	doubtTooks      = 2                      // the same, in units of what a chunk takes
	minDoubt        = 250 * time.Millisecond // likewise for later chunks
	doubtGain       = 2                      // the same, in units of what is likely
	minPatience     = time.Second            // for a chunk
	vainTimeouts    = 4                      // in a row, from whomever, show that this machine's own link is slow
	maxPatience     = 2 * time.Minute
)

// Priorities. A download without a chunk for so long no longer holds up less urgent ones.
const (
	hurryLeast = 500 * time.Millisecond
	hurryTooks = 3 // the same, in units of what a chunk takes
)

// Failures.
const (
	pauseFailed  = 250 * time.Millisecond // doubles, as all pauses do
	pauseBusy    = 30 * time.Millisecond
	pauseCorrupt = 5 * time.Second // of a cache; a peer is distrusted
	pauseLocal   = 500 * time.Millisecond
	maxPause     = 30 * time.Second
	maxBusy      = 5                      // busy answers in a row before a source is not counted on
	deferFirst   = 500 * time.Millisecond // for a chunk that no cache gave; doubles
	maxDefer     = 16 * time.Second
)

// The protection of the caches and its end.
const (
	greetingWait    = 200 * time.Millisecond // for neighbours to say what they hold, before a cache is asked
	enoughGreetings = 3                      // neighbours
	coverEvery      = 100 * time.Millisecond // between two looks for members that lag behind
	laggardChunks   = 3                      // of its share unseen, and
	laggardPart     = 8                      // a part of one in so many, make a laggard
	laggardTakes    = 2                      // in silence, in units of what a chunk takes from a cache
	plentyHops      = 2                      // times a chunk's way through the swarm, that peers can keep this machine busy
	minQuiet        = 100 * time.Millisecond // with little news, before the fall-back opens further
	quietGaps       = 4                      // the same, in units of the usual time between news
	minNews         = 4                      // pieces of news, to learn their usual rate from
	flowPart        = 4                      // news at a part of the usual rate, one in so many, are a flow
	backups         = 2                      // phases of the fall-back in which one more machine asks
	maxPhase        = 20                     // by then everyone may ask
)
