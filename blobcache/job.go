package blobcache

import (
	"context"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// job is one wanted artifact at one cache, or the draft of a build, which may become an
// artifact. The Replicator's loop owns it.
type job struct {
	artifact starling.Digest // of a draft: a name for it that no artifact has
	build    string          // deployment whose draft it is; empty: an artifact
	draft    rpc.Draft       // how far to read; of a draft
	read     rpc.Draft       // how far it was read
	sources  []rpc.Source
	urgency  Urgency
	base     starling.Digest // the artifact that this one follows; zero: none

	chunks []starling.Chunk // of the manifest or draft, each digest once; nil: not had
	caches []string         // the membership that the share was computed with
	total  int              // chunks of the share; -1: unknown

	missing  map[starling.Digest]pull // of the share
	lanQueue []starling.Digest        // missing ones to get inside the region
	wanQueue []starling.Digest        // missing ones to get from other regions
	inFlight int
	wan      int  // of inFlight, from other regions
	dry      bool // the last pull from another region did not find its chunk at once
	wanBytes int64

	due       bool // to be planned
	planning  bool
	planned   bool // a plan is in force
	failed    bool // something of the plan failed: plan anew once the rest is done
	failures  int  // plans that failed in a row
	misses    int  // pulls that failed in a row
	notBefore time.Time
	again     time.Duration // that a busy cache asked for; 0: none has since the last plan
	problem   string

	followCtx context.Context // of pulls inside the region; ends at the next plan
	unfollowF context.CancelFunc
}

// pull is one chunk to get.
type pull struct {
	chunk   starling.Chunk
	holders []string          // caches of the region that hold it
	leaders []string          // caches of the region that are before this one in line for it
	bases   []starling.Digest // chunks held here that it may be patched from
}

// busy reports whether there is something to start.
func (j *job) busy() bool {
	return j.due || j.failed || len(j.lanQueue) > 0 || len(j.wanQueue) > 0
}

// pulling is how many of its pulls are in flight.
func (j *job) pulling(lan bool) int {
	if lan {
		return j.inFlight - j.wan
	}
	return j.wan
}

// drained reports whether everything that the plan began has ended.
func (j *job) drained() bool {
	return j.inFlight == 0 && len(j.lanQueue) == 0 && len(j.wanQueue) == 0
}

// replan has the job planned anew at once.
func (j *job) replan() {
	j.due = true
	j.notBefore = time.Time{}
	j.unfollow()
}

// become makes a draft the job of the artifact that its build gave. What it pulls is
// part of that, but for rare exceptions, and goes on until the plan by the manifest.
func (j *job) become(artifact starling.Digest) {
	j.artifact, j.build, j.draft, j.read = artifact, "", rpc.Draft{}, rpc.Draft{}
	j.chunks, j.total = nil, -1
	j.planned, j.failed, j.failures, j.misses, j.problem = false, false, 0, 0, ""
	j.due, j.notBefore = true, time.Time{}
}

// adopt puts a plan in force. Pulls of the plan before that are still in flight stay so;
// a draft that has only grown goes on waiting for its neighbours.
func (j *job) adopt(p plan) {
	if j.build == "" || !slices.Equal(j.caches, p.caches) {
		j.unfollow()
	}
	j.caches, j.total, j.planned = p.caches, p.total, true
	j.missing = make(map[starling.Digest]pull, len(p.pulls))
	j.lanQueue, j.wanQueue = nil, nil
	for _, one := range p.pulls {
		j.missing[one.chunk.Digest] = one
		if len(one.holders) > 0 || len(one.leaders) > 0 {
			j.lanQueue = append(j.lanQueue, one.chunk.Digest)
		} else {
			j.wanQueue = append(j.wanQueue, one.chunk.Digest)
		}
	}
	j.settle()
}

// settle ends the memory of failures once nothing is missing.
func (j *job) settle() {
	if j.planned && len(j.missing) == 0 {
		j.failed, j.failures, j.problem = false, 0, ""
	}
}

// next takes the first chunk of a queue that is still missing and not in flight.
// Those in flight, for another artifact or by an earlier plan, go to the end.
func (j *job) next(lan bool, active map[starling.Digest]bool) (pull, bool) {
	queue := &j.wanQueue
	if lan {
		queue = &j.lanQueue
	}
	for n := len(*queue); n > 0; n-- {
		d := (*queue)[0]
		*queue = (*queue)[1:]
		p, ok := j.missing[d]
		switch {
		case !ok:
		case active[d]:
			*queue = append(*queue, d)
		default:
			return p, true
		}
	}
	return pull{}, false
}

// got notes that a chunk has arrived, for whichever artifact it was.
func (j *job) got(d starling.Digest) {
	if _, ok := j.missing[d]; ok {
		delete(j.missing, d)
		j.settle()
	}
}

// following returns the context of pulls inside the region.
func (j *job) following(ctx context.Context) context.Context {
	if j.followCtx == nil {
		j.followCtx, j.unfollowF = context.WithCancel(ctx)
	}
	return j.followCtx
}

// unfollow ends pulls inside the region.
func (j *job) unfollow() {
	if j.followCtx != nil {
		j.unfollowF()
		j.followCtx, j.unfollowF = nil, nil
	}
}

// hold is the job as servers hear of it.
func (j *job) hold() rpc.CacheHold {
	h := rpc.CacheHold{Artifact: j.artifact, ChunksTotal: j.total, Caches: j.caches, WANBytes: j.wanBytes, Problem: j.problem}
	if j.planned {
		h.ChunksDone = j.total - len(j.missing)
		h.Complete = len(j.missing) == 0 && !j.due && !j.planning
	}
	return h
}
