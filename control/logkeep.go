package control

import (
	"context"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

const (
	keepLogsEvery  = time.Second
	storeLogWithin = 10 * time.Second
)

// keepLogs stores the sections that have ended and that nobody else stores: those of
// builds whose workers were lost. It does so from memory, once, so that they outlive this leader.
func (t *term) keepLogs(ctx context.Context) error {
	for {
		if err := sleep(ctx, keepLogsEvery); err != nil {
			return err
		}
		v := t.s.cfg.FSM.View()
		if v.Level() < raftfsm.LevelOf(raftfsm.TypeLogStored) {
			continue // by itself a leader uses nothing new
		}
		for _, id := range t.logs.ids() {
			d, ok := v.Deployment(id)
			if !ok || d.Home != t.s.cfg.Region {
				continue
			}
			for _, p := range t.unstored(d) {
				if err := t.storeLog(ctx, d.ID, &p); err != nil && ctx.Err() == nil {
					t.s.cfg.Logger.Warn("a log could not be stored", "deployment", d.ID, "section", p.name, "err", err)
				}
			}
		}
	}
}

// unstored lists the sections of a log that have ended and are in memory only.
func (r *Reign) unstored(d *starling.Deployment) []logPiece {
	live, _ := r.logs.read(d.ID)
	var out []logPiece
	for _, p := range piecesOf(d, live) {
		if p.ended && p.stored.IsZero() && len(p.live) > 0 {
			out = append(out, p)
		}
	}
	return out
}

func (t *term) storeLog(ctx context.Context, id string, p *logPiece) error {
	ctx, cancel := context.WithTimeout(ctx, storeLogWithin)
	defer cancel()
	log := starling.DigestOf(p.live)
	if err := t.s.cfg.Blobs.Put(ctx, log, p.live); err != nil {
		return err
	}
	_, err := t.s.propose(ctx, t.actor(), raftfsm.TypeLogStored, raftfsm.LogStored{
		ID: id, Section: starling.LogSection{Name: p.name, Log: log, Bytes: int64(len(p.live))},
	})
	return err
}
