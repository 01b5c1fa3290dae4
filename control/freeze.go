package control

import (
	"fmt"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// frozen says which freeze keeps the deployment from its next step, empty if none does. A
// rollback is never held: it is the way back.
func (c *deciding) frozen() string {
	d := c.dep
	if d.IgnoreFreeze != nil || d.RollbackOf != "" || len(d.Spec.Deploy.Strategy.Freeze) == 0 {
		return ""
	}
	if d.Phase == starling.PhaseRollingOut {
		if _, more := d.NextStep(); !more {
			return ""
		}
	}
	f, until, err := starling.Frozen(d.Spec.Deploy.Strategy.Freeze, c.obs.Now, c.obs.Zone)
	switch {
	case err != nil:
		return fmt.Sprintf("frozen by %s, for its time zone cannot be found: %v", f.Name, err)
	case f == nil:
		return ""
	}
	return fmt.Sprintf("frozen by %s until %s", f.Name, until.UTC().Format("Mon 2006-01-02 15:04 MST"))
}

// checkZones refuses time zones that this server does not know.
func checkZones(all []starling.Freeze) error {
	for i := range all {
		if _, err := time.LoadLocation(all[i].Zone); err != nil {
			return starling.Invalidf(fmt.Sprintf("deploy.strategy.freeze[%d].zone", i), "%v: use a name like Europe/Berlin or UTC", err)
		}
	}
	return nil
}

// zones finds time zones, each of them once.
type zones struct {
	mu    sync.Mutex
	known map[string]*time.Location // of strategies, which are checked before they are kept
}

func (z *zones) find(name string) (*time.Location, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if loc := z.known[name]; loc != nil {
		return loc, nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, err
	}
	if z.known == nil {
		z.known = map[string]*time.Location{}
	}
	z.known[name] = loc
	return loc, nil
}
