package starling

import "time"

// Phase is where a deployment stands.
type Phase string

// The phases, in the order in which a deployment passes them.
const (
	PhaseQueued           Phase = "queued"
	PhaseBuilding         Phase = "building"
	PhaseReplicating      Phase = "replicating"
	PhaseStaging          Phase = "staging"
	PhaseAwaitingApproval Phase = "awaiting_approval"
	PhaseRollingOut       Phase = "rolling_out"
	PhaseSucceeded        Phase = "succeeded"
	PhaseFailed           Phase = "failed"
	PhaseCancelled        Phase = "cancelled"
)

// next lists the legal transitions. Failed and cancelled are reachable from every
// non-terminal phase; queued again from building when a worker was lost.
var next = map[Phase][]Phase{
	PhaseQueued:           {PhaseBuilding, PhaseReplicating},
	PhaseBuilding:         {PhaseReplicating, PhaseQueued},
	PhaseReplicating:      {PhaseStaging},
	PhaseStaging:          {PhaseAwaitingApproval, PhaseRollingOut},
	PhaseAwaitingApproval: {PhaseRollingOut},
	PhaseRollingOut:       {PhaseSucceeded},
}

// Terminal reports whether p is an end.
func (p Phase) Terminal() bool {
	return p == PhaseSucceeded || p == PhaseFailed || p == PhaseCancelled
}

// CanBecome reports whether a deployment in p may go to q.
func (p Phase) CanBecome(q Phase) bool {
	if p.Terminal() {
		return false
	}
	if q == PhaseFailed || q == PhaseCancelled {
		return true
	}
	for _, n := range next[p] {
		if n == q {
			return true
		}
	}
	return false
}

// Bounds of a deployment.
const (
	MaxBuildAttempts = 3
	MaxPriority      = 100 // 0 is normal; higher goes first
	MaxReasonBytes   = 2048
)

// Deployment is one attempt to bring an app to one artifact. The home's Raft holds it.
type Deployment struct {
	ID             string     `json:"id"`
	App            string     `json:"app"`
	Home           string     `json:"home"`
	Epoch          uint64     `json:"epoch,omitempty"` // of the home that keeps this record; 0 reads as 1
	SHA            string     `json:"sha,omitempty"`
	Artifact       Digest     `json:"artifact,omitzero"`
	RollbackOf     string     `json:"rollback_of,omitempty"` // ID of the deployment whose release this one restores
	Priority       int        `json:"priority"`
	Actor          string     `json:"actor"` // who submitted it
	IdempotencyKey string     `json:"idempotency_key,omitempty"`
	Spec           App        `json:"spec"` // the app as it was at submission
	Generation     Generation `json:"generation"`

	Phase     Phase     `json:"phase"`
	Reason    string    `json:"reason,omitempty"` // why it failed or was cancelled, for people
	CreatedAt time.Time `json:"created_at"`
	Deadline  time.Time `json:"deadline"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	PhaseAt   time.Time `json:"phase_at"` // when the current phase began

	Attempt    int    `json:"attempt"` // builds begun
	Worker     string `json:"worker,omitempty"`
	Lease      uint64 `json:"lease,omitempty"` // Raft index that granted the lease; 0: none
	BuildLog   Digest `json:"build_log,omitzero"`
	CacheHit   bool   `json:"cache_hit"` // the artifact of an earlier build was used again
	Sandboxed  bool   `json:"sandboxed"`
	RevertedTo Digest `json:"reverted_to,omitzero"` // release that the goal went back to after a failure
	Fence      *Fence `json:"fence,omitempty"`      // once it has failed or was cancelled
	// SupersededBy is the newer deployment of the app for which this one was given up in the queue.
	SupersededBy string `json:"superseded_by,omitempty"`

	Approval *Approval  `json:"approval,omitempty"` // who let it roll out
	From     *Origin    `json:"from,omitempty"`     // where the submission came from
	Commits  *CommitLog `json:"commits,omitempty"`  // what its build's commit brought

	Wave         int       `json:"wave"` // index of the step under way; see Steps
	WaveAt       time.Time `json:"wave_at,omitzero"`
	Paused       bool      `json:"paused"`
	Hold         *Hold     `json:"hold,omitempty"`          // while paused
	IgnoreFreeze *Override `json:"ignore_freeze,omitempty"` // who lets it roll out in spite of freezes
	Regions      []Placing `json:"regions"`                 // sorted by name
	// Hooks are those that workers run once, since they are due: before the machines from
	// the first wave on, after them from the end of the last.
	Hooks []HookRun `json:"hooks,omitempty"`
	// Logs are the sections of the log that nothing else names, in the order in which they
	// were stored.
	Logs []LogSection `json:"logs,omitempty"`

	Timings  Timings       `json:"timings"`
	Times    []RegionTimes `json:"times,omitempty"` // sorted by region
	Machines Counts        `json:"machines"`        // checkpoint; live counts are in the leader's memory
	// Fleet is from the regions' last reports, while the deployment is under way; never recorded.
	Fleet []FleetProgress `json:"fleet,omitempty"`
	Bytes Bytes           `json:"bytes"`
	// WaitsFor says what it is held up by just now, for people. Only the leader of its home
	// knows; never recorded.
	WaitsFor []string `json:"waits_for,omitempty"`
}

// Fence says what ended with a deployment that failed or was cancelled. The log is one
// order: whatever a worker, cache, machine or deposed leader still says in its name comes
// after Index and is refused there.
type Fence struct {
	Index uint64 `json:"index"`           // Raft index of the end
	Lease uint64 `json:"lease,omitempty"` // the worker's token that was in force; 0: none
	// Generation of its goal that was taken back, and the one in force since; zero: it had
	// none, or its goal stays where it was (a failure without auto_revert).
	Generation Generation `json:"generation,omitzero"`
	Goal       Generation `json:"goal,omitzero"`
}

// Hold says where a paused deployment stands still. The log is one order: whatever would
// let more machines activate comes after Index, and is refused there until it is resumed.
type Hold struct {
	Index uint64    `json:"index"` // Raft index of the pause
	By    string    `json:"by,omitempty"`
	At    time.Time `json:"at"`
	// Generation, Revision and Cutoffs are those of its goal; zero: it had none yet.
	Generation Generation        `json:"generation,omitzero"`
	Revision   uint64            `json:"revision,omitempty"`
	Cutoff     Cutoff            `json:"cutoff,omitempty"`
	Ahead      map[string]Cutoff `json:"ahead,omitempty"`
}

// Placing is one region's replication status.
type Placing struct {
	Name        string `json:"name"`
	Placed      bool   `json:"placed"`
	ChunksDone  int    `json:"chunks_done"`
	ChunksTotal int    `json:"chunks_total"`
}

// Timings says how long each stage took, in milliseconds; 0 while it has not ended.
type Timings struct {
	QueuedMS    int64 `json:"queued_ms"`
	BuildMS     int64 `json:"build_ms"`
	ReplicateMS int64 `json:"replicate_ms"`
	StageMS     int64 `json:"stage_ms"`
	RolloutMS   int64 `json:"rollout_ms"`
	TotalMS     int64 `json:"total_ms"`
}

// Bytes says what moved.
type Bytes struct {
	Artifact int64 `json:"artifact"`  // size of the artifact
	New      int64 `json:"new"`       // uploaded by the worker because the cache lacked it
	WAN      int64 `json:"wan"`       // between regions
	CacheOut int64 `json:"cache_out"` // from caches to machines
	Peer     int64 `json:"peer"`      // from machine to machine
	Local    int64 `json:"local"`     // taken from releases that machines already held

	// Peer again, by how near the sending machine was.
	PeerRack   int64 `json:"peer_rack"`   // in the same rack
	PeerZone   int64 `json:"peer_zone"`   // in the same zone, another rack
	PeerRegion int64 `json:"peer_region"` // in the same region, another zone
}

// Add returns the sum of what moved, keeping b's artifact size.
func (b Bytes) Add(o Bytes) Bytes {
	b.New += o.New
	b.WAN += o.WAN
	b.CacheOut += o.CacheOut
	b.Peer += o.Peer
	b.Local += o.Local
	b.PeerRack += o.PeerRack
	b.PeerZone += o.PeerZone
	b.PeerRegion += o.PeerRegion
	return b
}

// Max returns the greater of each count.
func (b Bytes) Max(o Bytes) Bytes {
	return Bytes{
		Artifact: max(b.Artifact, o.Artifact), New: max(b.New, o.New), WAN: max(b.WAN, o.WAN),
		CacheOut: max(b.CacheOut, o.CacheOut), Peer: max(b.Peer, o.Peer), Local: max(b.Local, o.Local),
		PeerRack: max(b.PeerRack, o.PeerRack), PeerZone: max(b.PeerZone, o.PeerZone), PeerRegion: max(b.PeerRegion, o.PeerRegion),
	}
}

// Within reports whether every count is between 0 and most.
func (b Bytes) Within(most int64) bool {
	for _, n := range []int64{b.Artifact, b.New, b.WAN, b.CacheOut, b.Peer, b.Local, b.PeerRack, b.PeerZone, b.PeerRegion} {
		if n < 0 || n > most {
			return false
		}
	}
	return true
}

// From adds n bytes that a machine got from a source of a kind.
func (b Bytes) From(k SourceKind, n int64) Bytes {
	switch k {
	case SourceCache:
		b.CacheOut += n
		return b
	case SourceLocal:
		b.Local += n
		return b
	case SourceRack:
		b.PeerRack += n
	case SourceZone:
		b.PeerZone += n
	default:
		b.PeerRegion += n
	}
	b.Peer += n
	return b
}

// Artifact is the record of a built or pushed artifact.
type Artifact struct {
	Digest    Digest    `json:"digest"`
	App       string    `json:"app,omitempty"` // empty: pushed for any app
	SHA       string    `json:"sha,omitempty"`
	BuildKey  string    `json:"build_key,omitempty"`
	Bytes     int64     `json:"bytes"`
	Files     int       `json:"files"`
	Chunks    int       `json:"chunks"`
	Region    string    `json:"region"` // where it was first stored
	Actor     string    `json:"actor"`
	CreatedAt time.Time `json:"created_at"`
	Sandboxed bool      `json:"sandboxed"`
	Built     *Built    `json:"built,omitempty"` // by the first build that gave it; nil: pushed
}
