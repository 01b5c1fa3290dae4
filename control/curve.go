package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// Bounds of what is remembered of how artifacts spread.
const (
	curveEvery = 200 * time.Millisecond // between two points, at first
	maxCurves  = 256                    // deployments, the newest
)

// curveBoard remembers how the machines of the deployments homed here came to hold their
// artifacts, also for a while after their end. It lives in a leader's memory, for one term.
type curveBoard struct {
	mu     sync.Mutex
	curves map[string]*curve
	order  []string // of their beginnings
}

type curve struct {
	every  time.Duration
	points []starling.CurvePoint
}

func newCurveBoard() *curveBoard { return &curveBoard{curves: map[string]*curve{}} }

// note adds what the regions have reported on a deployment, if it is time for a point.
func (b *curveBoard) note(d *starling.Deployment, reports map[string]Report, now time.Time) {
	var sum starling.Progress
	for _, r := range reports {
		if r.Generation == d.Generation {
			sum = sum.Add(r.Progress)
		}
	}
	if len(sum) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.curves[d.ID]
	if c == nil {
		c = &curve{every: curveEvery}
		b.curves[d.ID] = c
		if b.order = append(b.order, d.ID); len(b.order) > maxCurves {
			delete(b.curves, b.order[0])
			b.order = slices.Delete(b.order, 0, 1)
		}
	}
	c.add(starling.CurvePoint{AtMS: max(0, now.Sub(d.CreatedAt).Milliseconds()), Progress: sum})
}

// add takes a point that is late enough and says something new; of a still stretch only
// both ends are kept.
func (c *curve) add(p starling.CurvePoint) {
	n := len(c.points)
	if n > 0 && p.AtMS < c.points[n-1].AtMS+c.every.Milliseconds() {
		return
	}
	if n > 1 && slices.Equal(c.points[n-1].Progress, p.Progress) && slices.Equal(c.points[n-2].Progress, p.Progress) {
		c.points[n-1].AtMS = p.AtMS
		return
	}
	if c.points = append(c.points, p); len(c.points) <= starling.MaxCurvePoints {
		return
	}
	c.every *= 2
	kept := c.points[:0]
	for i := range c.points {
		if i%2 == 0 {
			kept = append(kept, c.points[i])
		}
	}
	c.points = kept
}

func (b *curveBoard) of(id string) []starling.CurvePoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.curves[id]; c != nil {
		return slices.Clone(c.points)
	}
	return nil
}

// DeploymentCurve implements httpapi.Explainer.
func (s *Server) DeploymentCurve(_ context.Context, id string) ([]starling.CurvePoint, error) {
	if _, ok := s.Deployment(id); !ok {
		return nil, fmt.Errorf("deployment %.80q: %w", id, starling.ErrNotFound)
	}
	if t := s.reigning(); t != nil {
		return t.curves.of(id), nil
	}
	return nil, nil
}
