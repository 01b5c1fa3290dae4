package raftfsm

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
)

// Bounds of the state, each kept by every server alike.
const (
	MaxEventsKept           = 8192    // in the ring
	MaxEndedDeployments     = 10_000  // kept per home region; the oldest go first
	MaxActiveDeployments    = 100_000 // homed here; more submissions are refused
	MaxReleasesPerApp       = 20
	MaxArtifactsPerRegion   = 20_000 // records; those in use are never dropped
	MaxTokensPerRegion      = 10_000
	MaxRegions              = 64
	MaxServersPerRegion     = 64
	MaxRegionNodes          = 512     // servers and caches that machines are told of
	MaxMirrorRecords        = 500     // in a batch, rounded up to all of one Raft index
	MaxMirrorBytes          = 2 << 20 // of a batch, rounded up likewise
	MaxMirrorRecordsApplied = 16_384
	MaxMirroredRecordBytes  = 512 << 10
	MaxTakeoverRecords      = 500  // moved by an entry, rounded up to all of one app
	MaxTakeoversKept        = 96   // stages of this region's takeovers of one other; the oldest go first
	MaxUnseenKept           = 1000 // records that nobody else had seen, named for people; the oldest go first
	MaxRevokedMachines      = 10_000
	MaxDrainingMachines     = 10_000
)

// limits are the bounds that history grows into; tests that reach them set lower ones.
type limits struct {
	events    int   // kept in the ring
	ended     int   // deployments, per home
	artifacts int   // records, per region
	tokens    int   // per region
	takeover  int   // records moved by an entry
	archive   int64 // bytes of segments
	machines  int   // of the region
}

func defaultLimits() limits {
	return limits{MaxEventsKept, MaxEndedDeployments, MaxArtifactsPerRegion, MaxTokensPerRegion, MaxTakeoverRecords, MaxArchiveBytes, starling.MaxMachinesPerRegion}
}

// Bounds of the input.
const (
	MaxIDBytes             = 64
	MaxActorBytes          = 256
	MaxWorkerBytes         = 256
	MaxIdempotencyKeyBytes = 128
	MaxAppBytes            = 64 << 10 // of an app's spec as JSON
	MaxHolding             = 64       // jobs listed in a lease
	MaxTokenNameBytes      = 128
	MaxServerAddrBytes     = 256
	MaxMachineWordBytes    = 128 // a zone, a rack
	MaxMachineTagsBytes    = 512 // keys and values of all tags: gossip carries no more
	MaxJoinTokenLife       = 366 * 24 * time.Hour

	maxYear = 9000 // of a time; JSON has no years above 9999
)

// mirrorFresh is how long ago a deployment that was never seen here may have ended
// for its end to be news.
const mirrorFresh = 10 * time.Minute

func checkID(field, id string) error {
	if id == "" || len(id) > MaxIDBytes {
		return starling.Invalidf(field, "%.80q: want 1 to %d bytes", id, MaxIDBytes)
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return starling.Invalidf(field, "%.80q: use letters, digits, dashes and underscores", id)
		}
	}
	return nil
}

// checkText refuses text that is too long or would break a key.
func checkText(field, s string, maxBytes int) error {
	if len(s) > maxBytes {
		return starling.Invalidf(field, "%d bytes, more than %d", len(s), maxBytes)
	}
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return starling.Invalidf(field, "must be UTF-8 without NUL")
	}
	return nil
}

func checkCounts(c *starling.Counts) error {
	for _, n := range []int{c.Target, c.Staged, c.Due, c.Healthy, c.Failed, c.Absent} {
		if n < 0 {
			return starling.Invalidf("counts", "%d is negative", n)
		}
	}
	if len(c.Samples) > starling.MaxFailureSamples {
		return starling.Invalidf("counts.samples", "%d samples, more than %d", len(c.Samples), starling.MaxFailureSamples)
	}
	for i := range c.Samples {
		s := &c.Samples[i]
		s.Node, s.Region = clip(s.Node, MaxIDBytes), clip(s.Region, MaxIDBytes)
		s.Reason = clip(s.Reason, starling.MaxReasonBytes)
	}
	if len(c.Distrusted) > starling.MaxAccusedSamples || len(c.Slowest) > starling.MaxSlowestMachines {
		return starling.Invalidf("counts", "%d distrusted, %d slowest: more than %d, %d",
			len(c.Distrusted), len(c.Slowest), starling.MaxAccusedSamples, starling.MaxSlowestMachines)
	}
	for i := range c.Distrusted {
		d := &c.Distrusted[i]
		d.Node, d.Region, d.By = clip(d.Node, MaxIDBytes), clip(d.Region, MaxIDBytes), clip(d.By, MaxIDBytes)
		d.Reason = clip(d.Reason, starling.MaxDistrustBytes)
	}
	for i := range c.Slowest {
		m := &c.Slowest[i]
		m.Node, m.Region, m.Bound = clip(m.Node, MaxIDBytes), clip(m.Region, MaxIDBytes), starling.Bound(clip(string(m.Bound), MaxIDBytes))
	}
	return nil
}

func checkBytes(b starling.Bytes) error {
	if !b.Within(math.MaxInt64) {
		return starling.Invalidf("bytes", "%+v: a count is negative", b)
	}
	return nil
}

// checkTimes wants one record at most for each region that takes part, in their order.
func checkTimes(d *starling.Deployment, times []starling.RegionTimes) error {
	last := ""
	for _, r := range times {
		if !slices.ContainsFunc(d.Regions, func(p starling.Placing) bool { return p.Name == r.Region }) || r.Region <= last {
			return starling.Invalidf("times", "region %.80q takes no part, or comes twice", r.Region)
		}
		last = r.Region
		for _, n := range []int64{r.UploadMS, r.FirstByteMS, r.PlacedMS, r.FetchMS, r.StagedMS, r.AllStagedMS, r.EarlyBytes} {
			if n < 0 {
				return starling.Invalidf("times", "%d is negative", n)
			}
		}
	}
	return nil
}

func checkArtifact(a *starling.Artifact) error {
	switch {
	case a.Digest.IsZero():
		return starling.Invalidf("artifact.digest", "is missing")
	case a.Bytes < 0 || a.Bytes > starling.MaxArtifactBytes:
		return starling.Invalidf("artifact.bytes", "%d is not within 0 and %d", a.Bytes, int64(starling.MaxArtifactBytes))
	case a.Files < 0 || a.Files > starling.MaxFiles:
		return starling.Invalidf("artifact.files", "%d is not within 0 and %d", a.Files, starling.MaxFiles)
	case a.Chunks < 0 || a.Chunks > starling.MaxChunks:
		return starling.Invalidf("artifact.chunks", "%d is not within 0 and %d", a.Chunks, starling.MaxChunks)
	}
	if a.App != "" {
		if err := starling.CheckName("artifact.app", a.App); err != nil {
			return err
		}
	}
	if a.SHA != "" {
		if err := starling.CheckSHA(a.SHA); err != nil {
			return err
		}
	}
	if err := checkText("artifact.build_key", a.BuildKey, MaxIDBytes); err != nil {
		return err
	}
	return checkText("artifact.actor", a.Actor, MaxActorBytes)
}
