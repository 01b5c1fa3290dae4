package raftfsm

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
)

// EntryVersion is the version of log entries that this program writes and reads.
const EntryVersion = 1

// Bounds of one log entry; an entry of one command may have MaxCommandBytes.
const (
	MaxEntryCommands = 256
	MaxEntryBytes    = 4 << 20
)

// Entry is the content of one Raft log entry: commands that commit together, each
// of which succeeds or is refused by itself.
type Entry struct {
	Version  int       `json:"v"`
	Commands []Command `json:"commands"`
}

// Command asks for one transition. Time, IDs and randomness are stamped by the proposer.
type Command struct {
	Type  Type            `json:"type"`
	Level int             `json:"level,omitempty"` // that a program must speak to apply it; 0: 1, or what LevelOf says
	At    time.Time       `json:"at"`              // the proposer's clock; never goes backwards in the state
	Actor string          `json:"actor,omitempty"` // who asked
	Data  json.RawMessage `json:"data"`
}

// Type names a command, noun.verb.
type Type string

// The commands. Each is described at its payload; those of machines and cells are in
// roster.go.
const (
	TypeAppApply         Type = "app.apply"
	TypeSubmit           Type = "deployment.submit"
	TypeStart            Type = "deployment.start"
	TypePlaced           Type = "deployment.placed"
	TypeAdvance          Type = "deployment.advance"
	TypeWave             Type = "deployment.wave"
	TypeCheckpoint       Type = "deployment.checkpoint"
	TypeFinish           Type = "deployment.finish"
	TypeApprove          Type = "deployment.approve"
	TypePause            Type = "deployment.pause"
	TypePromote          Type = "deployment.promote"
	TypeIgnoreFreeze     Type = "deployment.ignore_freeze"
	TypeJobLease         Type = "job.lease"
	TypeJobRequeue       Type = "job.requeue"
	TypeJobComplete      Type = "job.complete"
	TypeJobFail          Type = "job.fail"
	TypeArtifactRegister Type = "artifact.register"
	TypeArtifactPlaced   Type = "artifact.placed"
	TypeRegionUpsert     Type = "region.upsert"
	TypeMirror           Type = "mirror.apply"
	TypeTokenBootstrap   Type = "token.bootstrap"
	TypeTokenCreate      Type = "token.create"
	TypeTokenRevoke      Type = "token.revoke"
	TypeHistoryArchive   Type = "history.archive"
	TypeHistoryDrop      Type = "history.drop"
	TypeVote             Type = "region.vote"
	TypeTakeover         Type = "region.takeover"
	TypeReturned         Type = "region.returned"
	TypeMachineEnrol     Type = "machine.enrol"
	TypeMachineRegister  Type = "machine.register"
	TypeMachineStanding  Type = "machine.standing"
	TypeMachineRemove    Type = "machine.remove"
	TypeCellSplit        Type = "cell.split"
	TypeCellMerge        Type = "cell.merge"
	TypeCellRotate       Type = "cell.rotate"
	TypeJoinTokenCreate  Type = "jointoken.create"
	TypeJoinTokenRevoke  Type = "jointoken.revoke"
	TypeWebhookCreate    Type = "webhook.create"
	TypeWebhookDelete    Type = "webhook.delete"
	TypeSinkCreate       Type = "sink.create"
	TypeSinkDelete       Type = "sink.delete"
	TypeSinkProgress     Type = "sink.progress"
)

// NewCommand marshals a payload into a command.
func NewCommand(t Type, at time.Time, actor string, payload any) (Command, error) {
	b, err := json.Marshal(payload)
	if err != nil {
		return Command{}, fmt.Errorf("command %s: %w", t, err)
	}
	c := Command{Type: t, At: at, Actor: actor, Data: b}
	switch p := payload.(type) {
	case AppApply:
		if newSpec(&p.App.Deploy) {
			c.Level = levelRunning
		}
	case Mirror:
		if p.Batch.Moves() || p.Batch.Floor > 0 {
			c.Level = levelMoves
		}
		if newSpecs(&p.Batch) {
			c.Level = levelRunning
		}
	case Submit:
		if p.Supersede || p.IgnoreFreeze {
			c.Level = LevelSupersedes
		}
	case JobLease:
		if p.Deployment != "" {
			c.Level = LevelPicks
		}
	case Approve:
		if !p.Plan.IsZero() {
			c.Level = levelPlans
		}
	}
	return c, nil
}

// AppApply creates or changes an app whose home is this region (empty: this one).
// IfRevision, when not nil, must equal the current revision (0: must not exist). The
// new revision is the Raft index. Refused if another region has an app of that name.
// Result: App, Created.
type AppApply struct {
	App        starling.App `json:"app"`
	IfRevision *uint64      `json:"if_revision,omitempty"`
}

// Submit queues a deployment of exactly one of SHA (the app needs a build), Artifact
// (must be known) and Rollback. If the app has had a submission with the same
// non-empty IdempotencyKey, that deployment is the result and nothing changes, for as
// long as it is kept, be it in the archive.
//
// With Rollback, SHA, Artifact and deploy spec are those of the release RollbackTo (0:
// the newest one whose artifact is not the goal's), the priority is the highest, and
// it rolls out in one wave without approval. A SHA whose BuildKey has an artifact gets
// that artifact at once (cache hit). Every submission begins queued; one with an
// artifact waits for a Start, one without for a JobLease.
//
// Regions lists every region that takes part, this one is added; the app's deadline is
// added to At. With Supersede the app's queued deployments of no higher priority end as
// cancelled, in favour of this one. Result: Deployment or Archived, Created.
type Submit struct {
	ID             string          `json:"id"`
	App            string          `json:"app"`
	SHA            string          `json:"sha,omitempty"`
	Artifact       starling.Digest `json:"artifact,omitzero"`
	Rollback       bool            `json:"rollback,omitempty"`
	RollbackTo     uint64          `json:"rollback_to,omitempty"` // generation sequence; 0: the previous release
	Priority       int             `json:"priority,omitempty"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Regions        []string        `json:"regions"`
	Supersede      bool            `json:"supersede,omitempty"`
	IgnoreFreeze   bool            `json:"ignore_freeze,omitempty"` // by who submits
	From           starling.Origin `json:"from,omitzero"`           // kept, cut to its bounds
}

// Start moves a queued deployment that has its artifact to replicating. Refused
// while another deployment of the app is under way or goes first (higher priority,
// then older; see View.Startable). It makes the app's next goal.
type Start struct {
	ID string `json:"id"`
}

// Placed records a region's replication status at the home, until the deployment ends.
type Placed struct {
	ID      string           `json:"id"`
	Placing starling.Placing `json:"placing"`
}

// Advance moves a deployment from one phase to the next and its goal with it:
// staging (once the gate is open) waits for the machines, which fetch from the moment
// that there is a goal, rolling_out lets the first wave activate, succeeded (once the cutoff is everybody) records the release. Refused
// unless From is the current phase, To the one that the strategy puts after it, and
// while paused. Of Bytes, Artifact and New are the state's own and not taken over.
type Advance struct {
	ID     string                 `json:"id"`
	From   starling.Phase         `json:"from"`
	To     starling.Phase         `json:"to"`
	Counts starling.Counts        `json:"counts"`
	Bytes  starling.Bytes         `json:"bytes"`
	Times  []starling.RegionTimes `json:"times,omitempty"` // none: as they were
}

// Wave begins the given step, which must be the one after the current. The current one
// again is the last rise where no region of the steps to come takes part any more.
type Wave struct {
	ID   string `json:"id"`
	Wave int    `json:"wave"` // the step's index
}

// Promote ends the step under way, From, without waiting for its machines or its bake: the
// next begins, or with All the last, of all regions. Refused unless rolling out, while
// paused, and if another step than From is under way: the same twice does not skip two.
type Promote struct {
	ID   string `json:"id"`
	From int    `json:"from"` // the step's index
	All  bool   `json:"all,omitempty"`
}

// IgnoreFreeze records that freezes no longer hold a deployment, and who says so. Leaders
// read it, no transition does.
type IgnoreFreeze struct {
	ID string `json:"id"`
}

// Checkpoint keeps live counts for readers of history. Never moves a phase.
type Checkpoint struct {
	ID     string                 `json:"id"`
	Counts starling.Counts        `json:"counts"`
	Bytes  starling.Bytes         `json:"bytes"`
	Times  []starling.RegionTimes `json:"times,omitempty"` // none: as they were
}

// Finish ends a deployment as failed or cancelled. If its goal is in force and an
// earlier release exists (and, for failed, the strategy's auto_revert or the
// goal has not been activated), the app's goal goes back to that release under a new
// generation, in full at once; the goal's Deployment is then that of the release.
// Where no release exists the new goal has no artifact: nothing is to run, and
// machines stop and remove what they have. A goal that is not taken back stays
// frozen at its cutoff. The lease is gone; the record's Fence says what ended.
type Finish struct {
	ID     string                 `json:"id"`
	Phase  starling.Phase         `json:"phase"`
	Reason string                 `json:"reason"`
	Counts starling.Counts        `json:"counts"`
	Bytes  starling.Bytes         `json:"bytes"`
	Times  []starling.RegionTimes `json:"times,omitempty"` // none: as they were
}

// Approve moves awaiting_approval to rolling_out. Plan, when not zero, is the hash of the
// plan that was shown: then the leader has compared it by what Revision and Previous say of
// the state, and if either is another by now it is refused with a *starling.StaleError.
type Approve struct {
	ID       string              `json:"id"`
	Plan     starling.Digest     `json:"plan,omitzero"`
	Revision uint64              `json:"revision,omitempty"` // of the app
	Previous starling.Generation `json:"previous,omitzero"`  // of its newest release
}

// Pause stops advances, waves, promotion and approval but not the deadline or a build under
// way; a paused queued deployment neither starts nor holds up others. The record's Hold says
// where it stands still: no later command raises a cutoff. Paused false resumes.
type Pause struct {
	ID     string `json:"id"`
	Paused bool   `json:"paused"`
}

// JobLease grants the worker the next job: highest priority, then oldest, whose app
// has no other deployment under way. The lease token is the Raft index. A worker
// that already holds a job it does not list in Holding has lost it: such a job is
// queued again first (or fails, like any lost job). The same question twice in one
// entry gets the same answer, so that a token is never given twice.
//
// Deployment is the one that the leader has picked; if it may not be leased now, or is
// empty, the worker gets the first. Result: Deployment, or none.
type JobLease struct {
	Worker     string   `json:"worker"` // worker name / slot
	Holding    []string `json:"holding,omitempty"`
	Deployment string   `json:"deployment,omitempty"`
}

// JobRequeue takes a lost worker's job back; after MaxBuildAttempts it fails. Result: Deployment.
type JobRequeue struct {
	ID     string `json:"id"`
	Lease  uint64 `json:"lease"`
	Reason string `json:"reason"`
}

// JobComplete registers the built artifact and moves the deployment to replicating.
// Again with the same lease and artifact it changes nothing and is no error; with any
// other lease it is ErrFenced. The artifact's app, SHA and build key are the
// deployment's. Result: Deployment, Artifact.
type JobComplete struct {
	ID        string              `json:"id"`
	Lease     uint64              `json:"lease"`
	Artifact  starling.Artifact   `json:"artifact"`
	NewBytes  int64               `json:"new_bytes"`
	UploadMS  int64               `json:"upload_ms,omitempty"` // since the first chunk was uploaded
	Log       starling.Digest     `json:"log,omitzero"`
	Sandboxed bool                `json:"sandboxed"`
	Commits   *starling.CommitLog `json:"commits,omitempty"` // kept, cut to its bounds
}

// JobFail ends the deployment as failed.
type JobFail struct {
	ID        string          `json:"id"`
	Lease     uint64          `json:"lease"`
	Reason    string          `json:"reason"`
	Log       starling.Digest `json:"log,omitzero"`
	Sandboxed bool            `json:"sandboxed"`
}

// ArtifactRegister records a pushed artifact that this region's caches hold. The first
// record of a digest is kept. Result: Artifact, Created.
type ArtifactRegister struct {
	Artifact starling.Artifact `json:"artifact"`
}

// ArtifactPlaced records that this region's caches hold all of an artifact (or, with
// Lost, no longer do).
type ArtifactPlaced struct {
	Artifact starling.Digest `json:"artifact"`
	Lost     bool            `json:"lost,omitempty"`
}

// Region is what a region knows of a region, itself included.
type Region struct {
	Name    string   `json:"name"`
	Servers []string `json:"servers,omitempty"` // QUIC addresses
	// Nodes are this region's own servers and caches, sorted by name, as machines are told
	// of them. No transition reads them, and programs of level 1 do not keep them.
	Nodes []starling.Node `json:"nodes,omitempty"`
}

// RegionUpsert records a region.
type RegionUpsert struct {
	Region Region `json:"region"`
}

// Mirror applies a batch of records from their home region. Goals obey
// generations: an older one is passed over, silently, each by itself, and so is what
// is not the home's or would replace another home's record. A batch whose Index is
// not newer than the last from that home is refused.
type Mirror struct {
	Batch starling.Mirror `json:"batch"`
}

// TokenBootstrap makes the first operator token; refused when there is or was one.
type TokenBootstrap struct {
	Token starling.Token `json:"token"`
}

// TokenCreate adds a token.
type TokenCreate struct {
	Token starling.Token `json:"token"`
}

// TokenRevoke revokes a token by ID.
type TokenRevoke struct {
	ID string `json:"id"`
}

// Vote records for whom this region votes as the next home of Lost's apps: one candidate
// at most in each epoch, never another, and epochs only grow. The same again changes
// nothing. Refused when this region knows other regions than the candidate, so that a
// majority is the same for all, and when it has seen more of Lost's log than the
// candidate, as Raft refuses a candidate whose log is behind (Ongaro, section 5.4.1).
// Result: Ballot.
type Vote struct {
	Lost      string   `json:"lost"`
	Epoch     uint64   `json:"epoch"`
	Candidate string   `json:"candidate"`
	Regions   []string `json:"regions"` // all that the candidate knows, itself and Lost included
	Mirror    uint64   `json:"mirror"`  // how much of Lost's log the candidate has seen
}

// Takeover makes this region the home of the apps of From, as far as it has copies of
// them, under a new epoch. It moves about MaxTakeoverRecords, an app with its goal and
// releases at once; it is proposed again, with the same epoch, until the result's Stage
// is no longer "begun". Goals are issued again under the new epoch, so that they
// supersede; deployments that have not ended go on in the phase that they were in, but
// for builds, which are queued again. Those that have ended stay From's history.
// Votes are a strict majority of the known regions, this one's committed vote among them;
// none: an operator ordered it. Only with votes may From be this region itself.
// Result: Takeover.
type Takeover struct {
	From  string   `json:"from"`
	Epoch uint64   `json:"epoch"`
	Votes []string `json:"votes,omitempty"`
}

// Returned records that a region whose apps this one took over has caught up.
// Result: Takeover.
type Returned struct {
	Region string `json:"region"`
}

// Ballot is this region's last vote about a region.
type Ballot struct {
	Lost      string    `json:"lost"`
	Epoch     uint64    `json:"epoch"`
	Candidate string    `json:"candidate"`
	At        time.Time `json:"at"`
}

// Result is the answer to one command. Err is nil or wraps a sentinel of package starling.
type Result struct {
	Index      uint64
	Err        error
	App        *starling.App
	Deployment *starling.Deployment
	Archived   *Listed // of a Submit, in place of Deployment, if that is in the archive
	Artifact   *starling.Artifact
	Token      *starling.Token
	Takeover   *starling.Takeover
	Ballot     *Ballot
	Machine    *starling.Machine
	Cell       *starling.Cell
	JoinToken  *starling.JoinToken
	Webhook    *starling.Webhook
	Sink       *starling.Sink
	Created    bool
}
