package raftfsm

import (
	"encoding/json"
	"fmt"

	"github.com/starlingdeploy/starling"
)

func (t *tx) appApply(p *AppApply) (Result, error) {
	a := p.App
	a.SetDefaults()
	if a.Home == "" {
		a.Home = t.region
	}
	if err := checkApp(&a); err != nil {
		return Result{}, err
	}
	old := get[starling.App](t.reader, tableApps, byID, strKey(a.Name))
	switch {
	case a.Home != t.region:
		return Result{}, fmt.Errorf("%w: the home of app %s is %s, not %s: apply it there", starling.ErrConflict, a.Name, a.Home, t.region)
	case old != nil && old.rec.Home != t.region:
		return Result{}, fmt.Errorf("%w: region %s is the home of an app named %s: choose another name", starling.ErrConflict, old.rec.Home, a.Name)
	}
	// A goal may be mirrored before its app is: the app may have changed since.
	if g := get[starling.Goal](t.reader, tableGoals, byID, strKey(a.Name)); g != nil && g.mod == 0 {
		return Result{}, fmt.Errorf("%w: region %s is the home of an app named %s: choose another name", starling.ErrConflict, g.rec.Home, a.Name)
	}
	if p.IfRevision != nil {
		var have uint64
		if old != nil {
			have = old.rec.Revision
		}
		if have != *p.IfRevision {
			return Result{}, staleRevision(a.Name, have, *p.IfRevision)
		}
	}
	a.Epoch, a.Line = 0, ""
	if old != nil {
		a.Epoch, a.Line = old.rec.Epoch, old.rec.Line
	}
	a.Revision = t.index
	put(t, tableApps, old, &row[starling.App]{rec: &a, mod: t.index})
	t.emit(starling.Event{Type: EventAppApplied, App: a.Name})
	return Result{App: &a, Created: old == nil}, nil
}

func staleRevision(app string, have, want uint64) error {
	e := &starling.StaleError{Field: "If-Match", Hint: "read the app again, make the change to that, and send its revision"}
	switch {
	case have == 0:
		e.Detail = fmt.Sprintf("there is no app %s, and so no revision %d of it", app, want)
		e.Hint = "send 0, or no condition, to create it"
	case want == 0:
		e.Detail = fmt.Sprintf("app %s exists already: it is at revision %d", app, have)
	default:
		e.Detail = fmt.Sprintf("app %s is at revision %d, not %d: somebody has changed it", app, have, want)
	}
	return e
}

// checkApp validates an app whose defaults are set.
func checkApp(a *starling.App) error {
	if err := a.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return starling.Invalidf("app", "cannot be kept: %v", err)
	}
	if len(b) > MaxAppBytes {
		return starling.Invalidf("app", "the spec of %s is %d bytes, more than %d", a.Name, len(b), MaxAppBytes)
	}
	return nil
}

// app returns an app homed here.
func (t *tx) app(name string) (*starling.App, error) {
	r := get[starling.App](t.reader, tableApps, byID, strKey(name))
	switch {
	case r == nil:
		return nil, fmt.Errorf("%w: there is no app %.80q", starling.ErrNotFound, name)
	case r.mod == 0:
		return nil, fmt.Errorf("%w: the home of app %s is %s, not %s", starling.ErrConflict, name, r.rec.Home, t.region)
	}
	return r.rec, nil
}
