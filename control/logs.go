package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// logPiece is one section of a deployment's log: in the leader's memory, in the caches, or
// both, or lost.
type logPiece struct {
	name   string
	run    int    // of the build or the hook, from 1
	live   []byte // what memory has
	whole  bool   // which is all that there is so far
	stored starling.Digest
	ended  bool // nothing will be added
}

// piecesOf lists the sections of a log in the order in which the first run of each began:
// builds by attempt, then hooks.
func piecesOf(d *starling.Deployment, live []liveCopy) []logPiece {
	var out []logPiece
	add := func(name func(run int) string, runs int, last starling.Digest, ended bool) {
		for n := 1; n <= runs; n++ {
			p := logPiece{name: name(n), run: n, stored: storedSection(d, name(n)), ended: ended || n < runs}
			if n == runs && !last.IsZero() {
				p.stored = last
			}
			for _, c := range live {
				if c.name == p.name {
					p.live, p.whole = c.data, c.whole
				}
			}
			out = append(out, p)
		}
	}
	add(starling.BuildSection, d.Attempt, d.BuildLog, d.Phase != starling.PhaseBuilding)
	hooks := slices.Clone(d.Hooks)
	slices.SortStableFunc(hooks, func(a, b starling.HookRun) int { return cmp.Compare(a.First, b.First) })
	for i := range hooks {
		h := &hooks[i]
		add(func(n int) string { return starling.HookSection(h.Name(), n) }, h.Attempt, h.Log, h.State != starling.HookRunning)
	}
	return out
}

func storedSection(d *starling.Deployment, name string) starling.Digest {
	for _, s := range d.Logs {
		if s.Name == name {
			return s.Log
		}
	}
	return starling.Digest{}
}

// logEnds reports whether a log will not grow any more, as far as the state tells.
func logEnds(d *starling.Deployment) bool {
	building := d.Phase == starling.PhaseQueued || d.Phase == starling.PhaseBuilding
	return d.Phase.Terminal() || !building && !d.Spec.Deploy.Hooks.Once()
}

// text returns what there is of a piece, from the caches where memory lacks any of it.
func (s *Server) text(ctx context.Context, p *logPiece) ([]byte, error) {
	if p.stored.IsZero() || p.whole && len(p.live) > 0 {
		return p.live, nil
	}
	data, err := s.cfg.Blobs.Get(ctx, p.stored)
	if errors.Is(err, starling.ErrNotFound) && len(p.live) > 0 {
		return p.live, nil // better the part that is here than none
	}
	return data, err
}

// pieces returns a deployment, the sections of its log, and what is closed when there may
// be more.
func (s *Server) pieces(id string) (v raftfsm.View, d *starling.Deployment, all []logPiece, more <-chan struct{}, err error) {
	v = s.cfg.FSM.View()
	d, ok := s.deployment(v, id)
	if !ok {
		return v, nil, nil, nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	var live []liveCopy
	if t, _ := s.leading(); t != nil && d.Home == s.cfg.Region {
		live, more = t.logs.read(id)
	}
	return v, d, piecesOf(d, live), more, nil
}

// Log implements httpapi.Deployments: the sections of a log are read each for itself, so that
// a reader goes on exactly where it was, at whatever server.
func (s *Server) Log(ctx context.Context, id string, at starling.LogPlace) (starling.LogNews, error) {
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	for {
		v, d, pieces, more, err := s.pieces(id)
		if err != nil {
			return starling.LogNews{}, err
		}
		news := starling.LogNews{Done: logEnds(d)}
		room := maxLogPartBytes
		for i := range pieces {
			p := &pieces[i]
			c, err := s.chunkAfter(ctx, p, at[p.name], room)
			if err != nil {
				return news, fmt.Errorf("read the log of %s: %w", id, err)
			}
			if len(c.Data) > 0 || c.Lost != "" && news.Done {
				news.Chunks = append(news.Chunks, c)
			}
			if room -= len(c.Data); room <= 0 {
				news.Done = false // there may be more
				break
			}
		}
		if len(news.Chunks) > 0 || news.Done {
			return news, nil
		}
		select {
		case <-more: // nil: never
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return news, nil
		}
	}
}

// chunkAfter returns what there is of a piece after some of its bytes, or why there is not.
func (s *Server) chunkAfter(ctx context.Context, p *logPiece, seen int64, room int) (starling.LogChunk, error) {
	c := starling.LogChunk{Section: p.name, Offset: seen}
	if p.stored.IsZero() && p.ended && len(p.live) == 0 {
		if seen == 0 {
			c.Lost = "was lost with the worker and the leader that had it"
		}
		return c, nil
	}
	text := p.live
	if seen >= int64(len(p.live)) || !p.whole {
		var err error
		text, err = s.text(ctx, p)
		if errors.Is(err, starling.ErrNotFound) {
			c.Lost = "is no longer in the caches"
			return c, nil
		}
		if err != nil {
			return c, err
		}
	}
	if from := min(seen, int64(len(text))); from < int64(len(text)) {
		c.Data = text[from:min(from+int64(room), int64(len(text)))]
	} else if p.stored.IsZero() && p.ended && !p.whole {
		c.Lost = fmt.Sprintf("was longer than %d bytes", len(text))
	}
	return c, nil
}

// BuildLog implements httpapi.Deployments: the sections as one text. While it is written it is in the
// leader's memory; afterwards it is read from the caches, unless it is still here.
func (s *Server) BuildLog(ctx context.Context, id string, offset int64) (starling.LogPart, error) {
	if offset < 0 {
		return starling.LogPart{}, starling.Invalidf("offset", "%d is negative", offset)
	}
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	for {
		v, d, pieces, more, err := s.pieces(id)
		if err != nil {
			return starling.LogPart{}, err
		}
		part, err := s.partOf(ctx, pieces, offset)
		if err != nil {
			return part, fmt.Errorf("read the log of %s: %w", id, err)
		}
		part.Done = logEnds(d) && len(part.Data) < maxLogPartBytes
		if part.Done || len(part.Data) > 0 {
			return part, nil
		}
		select {
		case <-more: // nil: never
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return part, nil
		}
	}
}

// partOf returns the text of all pieces from an offset on, maxLogPartBytes at most. A piece
// follows the one before it once that has ended, so that an offset means the same to every
// reader, whenever it reads.
func (s *Server) partOf(ctx context.Context, pieces []logPiece, offset int64) (starling.LogPart, error) {
	part := starling.LogPart{Next: offset}
	var before int64
	for i := range pieces {
		p := &pieces[i]
		text, err := s.text(ctx, p)
		if err != nil && !errors.Is(err, starling.ErrNotFound) {
			return part, err
		}
		if err != nil {
			text = []byte("starling: this part of the log is no longer in the caches\n")
		}
		if len(text) > 0 && before > 0 && p.run > 1 {
			text = slices.Concat(fmt.Appendf(nil, "\n--- attempt %d ---\n", p.run), text)
		}
		part.Data = append(part.Data, text[min(max(offset-before, 0), int64(len(text))):]...)
		before += int64(len(text))
		if len(part.Data) >= maxLogPartBytes || !p.ended {
			break // what follows has its place only once this has ended
		}
	}
	part.Data = part.Data[:min(len(part.Data), maxLogPartBytes)]
	part.Next = offset + int64(len(part.Data))
	return part, nil
}

// WaitIndex implements httpapi.Cluster.
func (s *Server) WaitIndex(ctx context.Context, index uint64) uint64 {
	for {
		v := s.cfg.FSM.View()
		if v.Index() > index {
			return v.Index()
		}
		select {
		case <-s.cfg.FSM.Changed(v.Index()):
		case <-ctx.Done():
			return s.cfg.FSM.View().Index()
		}
	}
}

// EventsAfter implements httpapi.Events.
func (s *Server) EventsAfter(index uint64, n, limit int) ([]starling.Event, bool) {
	return s.cfg.FSM.View().EventsAfter(index, n, min(max(limit, 1), raftfsm.MaxListed))
}
