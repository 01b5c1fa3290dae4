package raftfsm

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// The tables.
const (
	tableMeta        = "meta"
	tableHomes       = "homes"
	tableRegions     = "regions"
	tableApps        = "apps"
	tableDeployments = "deployments"
	tableGoals       = "goals"
	tableReleases    = "releases"
	tableArtifacts   = "artifacts"
	tableBuilds      = "builds"
	tablePlaced      = "placed"
	tableTokens      = "tokens"
	tableEvents      = "events"
	tableHistory     = "history" // segments of the archive
	tableTakeovers   = "takeovers"
	tableBallots     = "ballots"
	tableUnseen      = "unseen"
	tableMachines    = "machines"
	tableCells       = "cells"
	tableJoinTokens  = "jointokens"
	tableWebhooks    = "webhooks"
	tableSinks       = "sinks"
	tableLanes       = "lanes" // derived from deployments, never in a snapshot
	tableKeys        = "keys"  // derived from history, never in a snapshot
	tableRacks       = "racks" // derived from machines, never in a snapshot
	tableSlots       = "slots" // derived from machines, never in a snapshot
)

// The indexes.
const (
	byID       = "id"
	byMod      = "mod"      // changed here, oldest change first
	byCreated  = "created"  // all, oldest first
	byApp      = "app"      // of an app, oldest first
	byActive   = "active"   // not ended, those homed here first, in order of submission
	byLane     = "lane"     // homed here and not ended, per app: under way, then queued, then held
	byKey      = "key"      // idempotency key, of copies as well: a retry may come after a change of home
	byEnded    = "ended"    // ended, per home, oldest first
	byWorker   = "worker"   // being built, by worker
	byArtifact = "artifact" // by the artifact that a record needs or names
	byRegion   = "region"   // per region, oldest first
	byHash     = "hash"
	byHook     = "hook"     // with a hook that waits for a worker
	byBuild    = "build"    // lanes whose next deployment wants a worker
	byStart    = "start"    // lanes whose next deployment has its artifact
	byCell     = "cell"     // machines of a cell, by slot
	byStanding = "standing" // machines that are draining or revoked
	byZone     = "zone"     // cells of a zone, the smallest first
)

// row is one stored record. Rows and records are never changed once put.
type row[T any] struct {
	rec *T
	// mod is the Raft index of the last change to a record homed here; 0 for copies
	// from other regions and for what is never mirrored.
	mod uint64
	// seq orders records by arrival in this state, for ties in time.
	seq uint64
}

// meta is the state's own bookkeeping.
type meta struct {
	Index   uint64    `json:"index"`  // of the last applied entry
	Clock   time.Time `json:"clock"`  // latest time seen in a command
	Seq     uint64    `json:"seq"`    // last given sequence number
	Events  int       `json:"events"` // in the ring
	Dropped position  `json:"dropped"`
	Level   int       `json:"level,omitempty"` // in use; 0: 1
	// Floor is the index at which this state was last restored: machines may have seen
	// generations up to it. 0: never.
	Floor uint64 `json:"floor,omitempty"`
	// Recovered counts how often the region went on without most of its servers.
	Recovered int    `json:"recovered,omitempty"`
	Archived  int64  `json:"archived,omitempty"` // bytes of the archive's segments
	Cells     uint64 `json:"cells,omitempty"`    // that there ever were: their names are never used again
	Machines  int    `json:"machines,omitempty"`
}

// position is the place of an event in the order of all events.
type position struct {
	Index uint64 `json:"index"`
	N     int    `json:"n"`
}

// home counts what is kept of one home region.
type home struct {
	Name      string `json:"name"`
	Mirror    uint64 `json:"mirror"`          // index of the last batch applied
	Floor     uint64 `json:"floor,omitempty"` // index at which the home was last restored, as far as is known
	Active    int    `json:"active"`          // deployments not ended
	Ended     int    `json:"ended"`
	Artifacts int    `json:"artifacts"`
	Tokens    int    `json:"tokens"`
	Unseen    int    `json:"unseen,omitempty"`   // records in that table; this region's only
	Archived  int    `json:"archived,omitempty"` // deployments in the archive
}

// build says which artifact a build key gave.
type build struct {
	Key      string          `json:"key"`
	Artifact starling.Digest `json:"artifact"`
}

// placed says that this region's caches hold all of an artifact.
type placed struct {
	Artifact starling.Digest `json:"artifact"`
}

// lane is the queue of an idle app: it names the deployment that goes next.
type lane struct {
	app      string
	next     string
	priority int
	seq      uint64
	build    bool // next wants a worker; otherwise it can start
}

// index makes a key of a row; nil leaves the row out of the index.
type index[T any] func(*row[T]) []byte

// of is the index for rows of any type; false: the row is not in it.
func (f index[T]) of(o any) ([]byte, bool) {
	r, ok := o.(*row[T])
	if !ok {
		return nil, false
	}
	k := f(r)
	return k, k != nil
}

// key builds index keys whose byte order is that of their parts.
type key []byte

func newKey() key                       { return make(key, 0, 64) }
func (k key) str(s string) key          { return append(append(k, s...), 0) } // s holds no NUL
func (k key) byte(b byte) key           { return append(k, b) }
func (k key) uint(v uint64) key         { return binary.BigEndian.AppendUint64(k, v) }
func (k key) dig(d starling.Digest) key { return append(k, d[:]...) }

func (k key) time(t time.Time) key {
	k = k.uint(uint64(t.Unix()) ^ 1<<63) // signed order
	return binary.BigEndian.AppendUint32(k, uint32(t.Nanosecond()))
}

// urgency sorts higher priorities first.
func (k key) urgency(priority int) key { return k.byte(byte(starling.MaxPriority - priority)) }

func strKey(s string) []byte          { return make(key, 0, len(s)+1).str(s) } // no larger than it must be
func digKey(d starling.Digest) []byte { return newKey().dig(d) }

func releaseKey(app string, g starling.Generation) []byte {
	return newKey().str(app).uint(g.Epoch).uint(g.Sequence)
}

// takeoverKey puts the takeovers of a region, and the stages of each, in their order.
func takeoverKey(tk *starling.Takeover) []byte {
	return newKey().str(tk.From).uint(tk.Epoch).byte(byte(slices.Index(takeoverStages(), tk.Stage)))
}

func takeoverStages() []starling.TakeoverStage {
	return []starling.TakeoverStage{starling.TakeoverBegun, starling.TakeoverDone, starling.TakeoverReturned}
}

func eventKey(p position) []byte { return newKey().uint(p.Index).uint(uint64(p.N)) }

func modKey[T any](r *row[T]) []byte {
	if r.mod == 0 {
		return nil
	}
	return newKey().uint(r.mod)
}

// optional leaves out keys that a record does not have.
func optional(have bool, k key) []byte {
	if !have {
		return nil
	}
	return k
}

func schema() map[string]*tableSchema {
	s := map[string]*tableSchema{}
	table(s, tableMeta, func(*row[meta]) []byte { return strKey(tableMeta) }, nil)
	table(s, tableHomes, func(r *row[home]) []byte { return strKey(r.rec.Name) }, nil)
	table(s, tableRegions, func(r *row[Region]) []byte { return strKey(r.rec.Name) }, nil)
	table(s, tableApps, func(r *row[starling.App]) []byte { return strKey(r.rec.Name) },
		map[string]index[starling.App]{byMod: modKey[starling.App]})
	table(s, tableDeployments, func(r *row[starling.Deployment]) []byte { return strKey(r.rec.ID) }, deploymentIndexes())
	table(s, tableGoals, func(r *row[starling.Goal]) []byte { return strKey(r.rec.App) },
		map[string]index[starling.Goal]{
			byMod:      modKey[starling.Goal],
			byArtifact: func(r *row[starling.Goal]) []byte { return digKey(r.rec.Artifact) },
		})
	table(s, tableReleases, func(r *row[starling.Release]) []byte { return releaseKey(r.rec.App, r.rec.Generation) },
		map[string]index[starling.Release]{
			byMod:      modKey[starling.Release],
			byArtifact: func(r *row[starling.Release]) []byte { return digKey(r.rec.Artifact) },
		})
	table(s, tableArtifacts, func(r *row[starling.Artifact]) []byte { return digKey(r.rec.Digest) },
		map[string]index[starling.Artifact]{
			byMod: modKey[starling.Artifact],
			byRegion: func(r *row[starling.Artifact]) []byte {
				return newKey().str(r.rec.Region).time(r.rec.CreatedAt).uint(r.seq)
			},
		})
	table(s, tableBuilds, func(r *row[build]) []byte { return strKey(r.rec.Key) },
		map[string]index[build]{byArtifact: func(r *row[build]) []byte { return digKey(r.rec.Artifact) }})
	table(s, tablePlaced, func(r *row[placed]) []byte { return digKey(r.rec.Artifact) }, nil)
	table(s, tableTokens, func(r *row[starling.Token]) []byte { return strKey(r.rec.ID) },
		map[string]index[starling.Token]{
			byMod:  modKey[starling.Token],
			byHash: func(r *row[starling.Token]) []byte { return digKey(r.rec.Hash) },
		})
	table(s, tableHistory, func(r *row[Segment]) []byte { return segmentKey(r.rec) }, nil)
	table(s, tableKeys, func(r *row[bucket]) []byte { return bucketKey(r.rec.n) }, nil)
	table(s, tableEvents, func(r *row[starling.Event]) []byte { return eventKey(position{r.rec.Index, r.rec.N}) }, nil)
	table(s, tableTakeovers, func(r *row[starling.Takeover]) []byte { return takeoverKey(r.rec) },
		map[string]index[starling.Takeover]{byMod: modKey[starling.Takeover]})
	table(s, tableBallots, func(r *row[Ballot]) []byte { return strKey(r.rec.Lost) }, nil)
	table(s, tableUnseen, func(r *row[starling.Unseen]) []byte { return newKey().uint(r.seq) }, nil)
	table(s, tableLanes, func(r *row[lane]) []byte { return strKey(r.rec.app) },
		map[string]index[lane]{
			byBuild: func(r *row[lane]) []byte {
				return optional(r.rec.build, newKey().urgency(r.rec.priority).uint(r.rec.seq))
			},
			byStart: func(r *row[lane]) []byte {
				return optional(!r.rec.build, newKey().urgency(r.rec.priority).uint(r.rec.seq))
			},
		})
	rosterTables(s)
	integrationTables(s)
	return s
}

func table[T any](s map[string]*tableSchema, name string, id index[T], more map[string]index[T]) {
	t := &tableSchema{id: id.of, names: []string{byID}, keys: []func(any) ([]byte, bool){id.of}}
	for _, n := range slices.Sorted(maps.Keys(more)) {
		t.names, t.keys = append(t.names, n), append(t.keys, more[n].of)
	}
	s[name] = t
}

// The parts of an app's lane, in the order in which byLane holds them.
const (
	laneUnderWay = 0
	laneQueued   = 1
	laneHeld     = 2 // queued and paused: neither goes nor stops others
)

func deploymentIndexes() map[string]index[starling.Deployment] {
	return map[string]index[starling.Deployment]{
		byMod:     modKey[starling.Deployment],
		byCreated: func(r *row[starling.Deployment]) []byte { return createdKey(newKey(), r) },
		byApp:     func(r *row[starling.Deployment]) []byte { return createdKey(newKey().str(r.rec.App), r) },
		byActive: func(r *row[starling.Deployment]) []byte {
			return optional(!r.rec.Phase.Terminal(), newKey().byte(place(r.mod)).uint(r.seq))
		},
		byLane: func(r *row[starling.Deployment]) []byte {
			return optional(r.mod != 0 && !r.rec.Phase.Terminal(),
				newKey().str(r.rec.App).byte(lanePart(r.rec)).urgency(r.rec.Priority).uint(r.seq))
		},
		byKey: func(r *row[starling.Deployment]) []byte {
			return optional(r.rec.IdempotencyKey != "", newKey().str(r.rec.App).str(r.rec.IdempotencyKey))
		},
		byEnded: func(r *row[starling.Deployment]) []byte {
			return optional(r.rec.Phase.Terminal(), createdKey(newKey().str(r.rec.Home), r))
		},
		byWorker: func(r *row[starling.Deployment]) []byte {
			return optional(r.mod != 0 && r.rec.Phase == starling.PhaseBuilding, newKey().str(r.rec.Worker))
		},
		byHook: func(r *row[starling.Deployment]) []byte {
			return optional(HooksPending(r.rec), newKey().uint(r.seq))
		},
		byArtifact: func(r *row[starling.Deployment]) []byte {
			return optional(!r.rec.Phase.Terminal() && !r.rec.Artifact.IsZero(), newKey().dig(r.rec.Artifact))
		},
	}
}

// createdKey puts deployments in order of age.
func createdKey(k key, r *row[starling.Deployment]) key { return k.time(r.rec.CreatedAt).uint(r.seq) }

// place sorts records homed here before copies.
func place(mod uint64) byte {
	if mod != 0 {
		return 0
	}
	return 1
}

func lanePart(d *starling.Deployment) byte {
	switch {
	case d.Phase != starling.PhaseQueued:
		return laneUnderWay
	case d.Paused:
		return laneHeld
	}
	return laneQueued
}
