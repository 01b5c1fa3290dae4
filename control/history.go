package control

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// History says how much of the past a region keeps.
type History struct {
	// Keep is how many ended deployments of this region's apps stay, the newest first;
	// default DefaultHistoryKeep, MaxHistoryKeep at most. Of each other region's apps
	// MaxHistoryCopies stay here, and all at home.
	Keep int
	// MaxAge is how long a deployment stays in the archive, counted from its creation; 0: as
	// long as Keep says.
	MaxAge time.Duration
	// Recent is how many of them stay as records, the others go into the archive; default
	// and maximum MaxHistoryRecent. In both a retry finds its deployment by its idempotency key.
	Recent int
}

// Bounds of History.
const (
	DefaultHistoryKeep = 100_000
	MaxHistoryKeep     = 1_000_000
	MaxHistoryCopies   = 10_000
	MaxHistoryRecent   = 9_000 // with a segment more under raftfsm.MaxEndedDeployments

	// recentCopies stay as records of each other region's apps, once archives are in use, or
	// more than maxRecords are kept: a record may take 7 kB of memory.
	recentCopies = 1_000
	maxRecords   = 20_000

	historyEvery      = time.Second // that the leader looks for something to archive
	historyRetryAfter = time.Minute // once that is refused: some server is too old, say
)

func (h *History) setDefaults() error {
	if h.Keep == 0 {
		h.Keep = DefaultHistoryKeep
	}
	if h.Recent == 0 {
		h.Recent = MaxHistoryRecent
	}
	return h.Check()
}

// Check refuses what is out of bounds.
func (h *History) Check() error {
	switch {
	case h.Keep < 0 || h.Keep > MaxHistoryKeep:
		return starling.Invalidf("server.history.keep", "%d is not within 1 and %d", h.Keep, MaxHistoryKeep)
	case h.MaxAge < 0 || h.MaxAge > 0 && h.MaxAge < time.Hour:
		return starling.Invalidf("server.history.max_age", "%s is under an hour", h.MaxAge)
	case h.Recent < 0 || h.Recent > MaxHistoryRecent:
		return starling.Invalidf("server.history.recent", "%d is not within 1 and %d", h.Recent, MaxHistoryRecent)
	}
	return nil
}

// keepHistory moves what has ended long ago into the archive, and drops what retention
// lets go.
func (t *term) keepHistory(ctx context.Context) error {
	told := "" // the last reason, not to be told again every minute
	for {
		pause := historyEvery
		for {
			more, err := t.archiveNext(ctx)
			if err != nil && ctx.Err() == nil {
				if told != err.Error() {
					told = err.Error()
					t.s.cfg.Logger.Warn("cannot archive deployments now", "err", err)
				}
				pause = historyRetryAfter
			}
			if err != nil || !more {
				break
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// archiveNext makes one step and reports whether there was one to make.
func (t *term) archiveNext(ctx context.Context) (bool, error) {
	typ, payload, err := t.s.cfg.History.next(t.s.cfg.FSM.View(), t.s.cfg.Region, t.now())
	if err != nil || payload == nil {
		return false, err
	}
	cmd, err := raftfsm.NewCommand(typ, t.now(), t.actor(), payload)
	if err != nil {
		return false, err
	}
	results, err := t.s.commit(ctx, cmd)
	if err != nil {
		return false, err
	}
	return true, results[0].Err
}

// next returns the next command that keeps the history of a region in bounds, none if it is.
func (h *History) next(v raftfsm.View, region string, now time.Time) (raftfsm.Type, any, error) {
	var before time.Time
	if h.MaxAge > 0 {
		before = now.Add(-h.MaxAge)
	}
	homes, records := v.Homes(), 0
	for _, home := range homes {
		records += v.HistoryOf(home).Ended
	}
	// There is no need to be the first to use archives: the version before has none.
	packCopies := records > maxRecords || v.Level() >= raftfsm.LevelOf(raftfsm.TypeHistoryArchive)
	for _, home := range homes {
		recent, keep := min(h.Recent, h.Keep), h.Keep
		if home != region {
			keep = min(keep, MaxHistoryCopies)
			if packCopies {
				recent = min(recent, recentCopies)
			}
		}
		// First what is to go: the archive must have room.
		if through := v.Droppable(home, max(0, keep-v.HistoryOf(home).Ended), before); through > 0 {
			return raftfsm.TypeHistoryDrop, raftfsm.HistoryDrop{Home: home, Through: through}, nil
		}
		if ds := v.Archivable(home, recent); ds != nil {
			p, err := pack(home, ds)
			return raftfsm.TypeHistoryArchive, p, err
		}
	}
	return "", nil, nil
}

// pack makes the command that archives deployments of a home, as many of them as fit:
// their JSON, one in a line, through gzip.
func pack(home string, ds []*starling.Deployment) (*raftfsm.HistoryArchive, error) {
	for {
		p := &raftfsm.HistoryArchive{Home: home}
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		lines := json.NewEncoder(z)
		for _, d := range ds {
			p.IDs = append(p.IDs, d.ID)
			if err := lines.Encode(d); err != nil {
				return nil, fmt.Errorf("pack deployment %s: %w", d.ID, err)
			}
		}
		if err := z.Close(); err != nil {
			return nil, fmt.Errorf("pack deployments: %w", err)
		}
		if p.Data = b.Bytes(); len(p.Data) <= raftfsm.MaxSegmentBytes || len(ds) == 1 {
			return p, nil
		}
		ds = ds[:len(ds)/2]
	}
}

// maxSegmentTextBytes bounds what is unpacked of one segment.
const maxSegmentTextBytes = raftfsm.MaxSegmentDeployments * raftfsm.MaxMirroredRecordBytes

// unpack reads some of a segment's deployments, by line.
func unpack(s *raftfsm.Segment, lines map[int]bool) (map[int]*starling.Deployment, error) {
	z, err := gzip.NewReader(bytes.NewReader(s.Data))
	if err != nil {
		return nil, fmt.Errorf("segment %d of %s: %w: %w", s.Seq, s.Home, starling.ErrCorrupt, err)
	}
	in := bufio.NewScanner(io.LimitReader(z, maxSegmentTextBytes))
	in.Buffer(nil, raftfsm.MaxRecordBytes)
	out := make(map[int]*starling.Deployment, len(lines))
	for n := 0; len(out) < len(lines) && in.Scan(); n++ {
		if !lines[n] {
			continue
		}
		d := new(starling.Deployment)
		if err := json.Unmarshal(in.Bytes(), d); err != nil {
			return nil, fmt.Errorf("segment %d of %s, line %d: %w: %w", s.Seq, s.Home, n, starling.ErrCorrupt, err)
		}
		out[n] = d
	}
	if len(out) < len(lines) {
		return nil, fmt.Errorf("segment %d of %s ends too early: %w: %w", s.Seq, s.Home, starling.ErrCorrupt, in.Err())
	}
	return out, nil
}

// records returns the deployments of a list, those in the archive unpacked. What cannot
// be read is left out, and the error tells of it.
func records(list []raftfsm.Listed) ([]*starling.Deployment, error) {
	wanted := map[*raftfsm.Segment]map[int]bool{}
	for _, l := range list {
		if l.Deployment == nil {
			if wanted[l.Segment] == nil {
				wanted[l.Segment] = map[int]bool{}
			}
			wanted[l.Segment][l.Head.Line] = true
		}
	}
	var failed error
	unpacked := map[*raftfsm.Segment]map[int]*starling.Deployment{}
	for s, lines := range wanted {
		ds, err := unpack(s, lines)
		if err != nil {
			failed = err
		}
		unpacked[s] = ds
	}
	var out []*starling.Deployment
	for _, l := range list {
		d := l.Deployment
		if d == nil {
			d = unpacked[l.Segment][l.Head.Line]
		}
		if d != nil {
			out = append(out, d)
		}
	}
	return out, failed
}

// deployment returns a record, from the archive if it is there.
func (s *Server) deployment(v raftfsm.View, id string) (*starling.Deployment, bool) {
	if d, ok := v.Deployment(id); ok {
		return d, true
	}
	l, ok := v.Archived(id)
	if !ok {
		return nil, false
	}
	ds, err := records([]raftfsm.Listed{l})
	if err != nil {
		s.cfg.Logger.Error("cannot read the archive", "deployment", id, "err", err)
		return nil, false
	}
	return ds[0], true
}

// submittedLongAgo unpacks the deployment that the archive has for an idempotency key.
// Nothing is deployed for that key while it cannot be read.
func submittedLongAgo(l raftfsm.Listed, idempotencyKey string) (*starling.Deployment, error) {
	ds, err := records([]raftfsm.Listed{l})
	if err != nil {
		// Not as ErrCorrupt: that would tell the client to send better bytes.
		return nil, fmt.Errorf("submit: deployment %s has this idempotency key and cannot be read: %v", l.Head.ID, err)
	}
	if d := ds[0]; d.IdempotencyKey == idempotencyKey {
		return d, nil
	}
	return nil, fmt.Errorf("%w: this idempotency key has the same hash as that of deployment %s: use another", starling.ErrConflict, l.Head.ID)
}

// Deployments implements httpapi.Deployments.
func (s *Server) Deployments(f starling.DeploymentFilter) []*starling.Deployment {
	ds, err := records(s.cfg.FSM.View().History(f))
	if err != nil {
		s.cfg.Logger.Error("cannot read all of the archive", "err", err)
	}
	return ds
}
