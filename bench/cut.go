package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/lab"
)

// cutting is a cut of the script.
type cutting struct {
	*injection
	heals time.Time // zero: not cut, or healed
}

// cut has those whom an injection befalls and all others lose each other.
func (in *injector) cut(j *injection) error {
	for _, c := range in.cuts {
		if c.injection == j {
			c.heals = time.Now().Add(j.For)
		}
	}
	return in.links(j.hosts, in.stand.lab.Cut)
}

// links changes the links between some hosts and all others, in both directions.
func (in *injector) links(inside []lab.Host, change func(from lab.Host, to ...lab.Host) error) error {
	outside := slices.DeleteFunc(slices.Clone(in.stand.lab.Hosts()), func(h lab.Host) bool { return slices.Contains(inside, h) })
	var errs []error
	for _, h := range inside {
		errs = append(errs, change(h, outside...))
	}
	for _, h := range outside {
		errs = append(errs, change(h, inside...))
	}
	return errors.Join(errs...)
}

// heal ends the cuts that are over.
func (in *injector) heal(since time.Duration) error {
	for _, c := range in.cuts {
		if c.heals.IsZero() || time.Now().Before(c.heals) {
			continue
		}
		c.heals, c.result.HealedS = time.Time{}, since.Seconds()
		if err := in.links(c.hosts, in.stand.lab.Mend); err != nil {
			return fmt.Errorf("%s: %w", c.Text, err)
		}
	}
	return nil
}

// cutOver reports whether every machine was found again, and notes when. Cells tell nothing of
// machines that a fault has ended: it is for scripts that cut alone.
func (d *distribution) cutOver(ctx context.Context) (bool, error) {
	if len(d.faults.cuts) == 0 || len(d.faults.cuts) < len(d.cfg.Faults) {
		return true, nil
	}
	cells, err := d.api.Cells(ctx)
	if err != nil {
		return false, err
	}
	alive := 0
	for _, c := range cells {
		alive += c.Alive
	}
	if alive > d.cfg.Machines {
		return false, fmt.Errorf("cells count %d machines of %d", alive, d.cfg.Machines)
	}
	whole := true
	for _, c := range d.faults.cuts {
		if c.result.HealedS == 0 || c.result.WholeS == 0 && alive < d.cfg.Machines {
			whole = false
		} else if c.result.WholeS == 0 {
			c.result.WholeS = time.Since(d.began).Seconds()
		}
	}
	return whole, nil
}

// countedOnce returns an error if a deployment counts machines more than once.
func (d *distribution) countedOnce(v *starling.Deployment) error {
	m := v.Machines
	if most := max(m.Target, m.Staged+m.Failed, m.Healthy+m.Failed, m.Target+m.Absent-d.cfg.Machines); most > d.cfg.Machines {
		return fmt.Errorf("of %d machines the deployment counts %+v", d.cfg.Machines, m)
	}
	return nil
}
