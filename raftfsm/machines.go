package raftfsm

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
)

// grantedZone is what stands in Machine.Granted for the zone.
const grantedZone = "zone"

func (t *tx) machine(name string) *row[starling.Machine] { return machineRow(t.reader, name) }

func machineRow(r reader, name string) *row[starling.Machine] {
	return get[starling.Machine](r, tableMachines, byID, strKey(name))
}

// admits returns the machine of that name, which may be nil, and the join token, if they let the machine in.
func admits(r reader, p *MachineEnrol, now time.Time) (*row[starling.Machine], *row[starling.JoinToken], error) {
	old := machineRow(r, p.Name)
	token, err := proven(r, p.Token, p.Hash, now)
	switch {
	case err != nil:
		return nil, nil, err
	case old != nil && old.rec.Standing == starling.StandingRevoked:
		return nil, nil, revoked(p.Name)
	case old != nil && old.rec.Key != p.Key:
		return nil, nil, fmt.Errorf("%w: there is a machine %s already, with another key: give this one another name, or remove that one first: starling node remove %s",
			starling.ErrConflict, p.Name, p.Name)
	case !enrolledBy(old, token) && token.rec.Uses >= token.rec.MaxUses:
		return nil, nil, fmt.Errorf("%w: join token %s has been used by %d machines, which is all that it was made for: make another: starling node token create",
			starling.ErrForbidden, token.rec.ID, token.rec.Uses)
	}
	return old, token, nil
}

func enrolledBy(m *row[starling.Machine], k *row[starling.JoinToken]) bool {
	return m != nil && m.rec.Token == k.rec.ID
}

func (t *tx) machineEnrol(p *MachineEnrol) (Result, error) {
	if err := checkFacts(&p.MachineFacts, p.Max); err != nil {
		return Result{}, err
	}
	if p.Key.IsZero() {
		return Result{}, starling.Invalidf("machine.key", "is missing")
	}
	old, token, err := admits(t.reader, p, t.now)
	if err != nil {
		return Result{}, err
	}
	m := starling.Machine{Name: p.Name, Standing: starling.StandingActive, EnrolledAt: t.now}
	if old != nil {
		m = *old.rec
	}
	m.Key, m.Token = p.Key, token.rec.ID
	if err := grant(&m, token.rec, &p.MachineFacts); err != nil {
		return Result{}, err
	}
	if !enrolledBy(old, token) {
		used := *token.rec
		used.Uses++
		put(t, tableJoinTokens, token, &row[starling.JoinToken]{rec: &used})
	}
	return t.settle(old, &m, p.Max)
}

// grant takes over what a machine says of itself as far as its token allows.
func grant(m *starling.Machine, k *starling.JoinToken, f *MachineFacts) error {
	m.Granted = slices.Sorted(maps.Keys(k.Tags))
	m.Zone, m.Rack, m.Gossip = f.Zone, f.Rack, f.Gossip
	if k.Zone != "" {
		if f.Zone != "" && f.Zone != k.Zone {
			return fmt.Errorf("%w: join token %s is for machines in zone %s, not %s", starling.ErrForbidden, k.ID, k.Zone, f.Zone)
		}
		m.Zone = k.Zone
		m.Granted = append(m.Granted, grantedZone)
		slices.Sort(m.Granted)
	}
	tags := make(map[string]string, len(f.Tags)+len(k.Tags))
	maps.Copy(tags, f.Tags)
	for _, name := range slices.Sorted(maps.Keys(k.Tags)) {
		if v, ok := tags[name]; ok && v != k.Tags[name] {
			return fmt.Errorf("%w: join token %s is for machines with tag %s = %s, not %s", starling.ErrForbidden, k.ID, name, k.Tags[name], v)
		}
		tags[name] = k.Tags[name]
	}
	m.Tags = tags
	return checkTags("machine.tags", tags)
}

func revoked(name string) error {
	return fmt.Errorf("%w: machine %s is revoked; an operator may let it in again: starling node revoke %s --off, or forget it: starling node remove %s --force",
		starling.ErrForbidden, name, name, name)
}

func (t *tx) machineRegister(p *MachineRegister) (Result, error) {
	if err := checkFacts(&p.MachineFacts, p.Max); err != nil {
		return Result{}, err
	}
	old := t.machine(p.Name)
	m := starling.Machine{Name: p.Name, Standing: starling.StandingActive, EnrolledAt: t.now}
	if old != nil {
		m = *old.rec
	}
	if m.Standing == starling.StandingRevoked {
		return Result{}, revoked(p.Name)
	}
	if err := keepGranted(&m, p); err != nil {
		return Result{}, err
	}
	if old != nil && sameMachine(old.rec, &m) {
		return Result{Machine: old.rec, Cell: t.cellOf(old.rec)}, nil
	}
	return t.settle(old, &m, p.Max)
}

// keepGranted takes over what a machine says of itself, but for what it was granted: that
// it may leave out, and must not say otherwise.
func keepGranted(m *starling.Machine, p *MachineRegister) error {
	tags := make(map[string]string, len(p.Tags))
	maps.Copy(tags, p.Tags)
	zone := p.Zone
	for _, g := range m.Granted {
		have, want := tags[g], m.Tags[g]
		if g == grantedZone {
			have, want = zone, m.Zone
		}
		if have != "" && have != want {
			return fmt.Errorf("%w: machine %s was enrolled with %s = %s and cannot make it %s itself: remove it (starling node remove %s) and enrol it anew",
				starling.ErrForbidden, m.Name, g, want, have, m.Name)
		}
		if g == grantedZone {
			zone = want
		} else {
			tags[g] = want
		}
	}
	if !p.Key.IsZero() {
		m.Key = p.Key
	}
	if zone != m.Zone {
		m.Cell, m.Slot = "", 0
	}
	m.Zone, m.Rack, m.Gossip, m.Tags = zone, p.Rack, p.Gossip, tags
	return checkTags("machine.tags", tags)
}

// sameMachine compares what registering may change.
func sameMachine(a, b *starling.Machine) bool {
	return a.Zone == b.Zone && a.Rack == b.Rack && a.Gossip == b.Gossip && a.Key == b.Key &&
		a.Cell == b.Cell && a.Cell != "" && maps.Equal(a.Tags, b.Tags)
}

// settle stores a machine in place of old, which may be nil, in its cell or a new one.
func (t *tx) settle(old *row[starling.Machine], m *starling.Machine, most int) (Result, error) {
	if old == nil && t.meta.Machines >= t.limits.machines {
		return Result{}, t.tooMany()
	}
	if len(m.Tags) == 0 {
		m.Tags = nil
	}
	cell := m.Cell
	if old != nil && old.rec.Cell != "" && cell == old.rec.Cell && old.rec.Zone != m.Zone {
		cell = "" // enrolled again, elsewhere
	}
	if cell == "" {
		cell = t.assign(m.Zone, m.Rack, most)
	}
	from := ""
	if old != nil {
		from = old.rec.Cell
	}
	m.Cell = from
	next := *m
	t.move(old, &next, cell)
	if old == nil {
		t.meta.Machines++
		t.emitEnrolled(m.Name)
	}
	return Result{Machine: &next, Cell: t.cellOf(&next), Created: old == nil}, nil
}

func (t *tx) cellOf(m *starling.Machine) *starling.Cell {
	c, _ := find(get[starling.Cell](t.reader, tableCells, byID, strKey(m.Cell)))
	return c
}

// enrolments is the event of the machines that came in an entry: a region that starts
// must not drive all else out of the ring.
type enrolments struct {
	at    position
	first string
	more  int
}

func (t *tx) emitEnrolled(name string) {
	e := get[starling.Event](t.reader, tableEvents, byID, eventKey(t.enrolled.at))
	if t.enrolled.first == "" || e == nil || e.rec.Type != EventMachineEnrolled {
		t.enrolled = enrolments{at: position{t.index, t.n}, first: name}
		t.emit(starling.Event{Type: EventMachineEnrolled, Detail: name})
		return
	}
	t.enrolled.more++
	event := *e.rec
	event.Detail = fmt.Sprintf("%s and %d more", t.enrolled.first, t.enrolled.more)
	put(t, tableEvents, e, &row[starling.Event]{rec: &event})
}

func (t *tx) machineStanding(p *MachineStanding) (Result, error) {
	old := t.machine(p.Name)
	if old == nil && p.Unknown && p.Standing == starling.StandingRevoked {
		return t.revokeUnknown(p.Name)
	}
	if old == nil {
		return Result{}, unknownMachine(p.Name)
	}
	most := 0
	switch p.Standing {
	case starling.StandingActive:
		most = t.limits.machines
	case starling.StandingDraining:
		most = MaxDrainingMachines
		if old.rec.Standing == starling.StandingRevoked {
			return Result{}, fmt.Errorf("%w: machine %s is revoked", starling.ErrConflict, p.Name)
		}
	case starling.StandingRevoked:
		most = MaxRevokedMachines
	default:
		return Result{}, starling.Invalidf("standing", "%.40q: use active, draining or revoked", p.Standing)
	}
	if old.rec.Standing == p.Standing {
		return Result{Machine: old.rec}, nil
	}
	if p.From != "" && old.rec.Standing != p.From {
		return Result{}, fmt.Errorf("%w: machine %s is %s, not %s", starling.ErrConflict, p.Name, old.rec.Standing, p.From)
	}
	if err := t.checkStandings(p.Standing, most); err != nil {
		return Result{}, err
	}
	m := *old.rec
	m.Standing = p.Standing
	if p.Standing == starling.StandingRevoked {
		t.move(old, &m, "")
	} else {
		put(t, tableMachines, old, &row[starling.Machine]{rec: &m})
	}
	t.emit(starling.Event{Type: EventMachineStanding, Detail: fmt.Sprintf("%s is %s", m.Name, m.Standing)})
	return Result{Machine: &m}, nil
}

// checkStandings refuses one machine more in a standing than can be.
func (t *tx) checkStandings(s starling.Standing, most int) error {
	n := 0
	for range scan[starling.Machine](t.reader, tableMachines, byStanding, strKey(string(s))) {
		n++
	}
	if n >= most {
		return fmt.Errorf("%w: %d machines are %s, as many as can be: remove some", starling.ErrConflict, n, s)
	}
	return nil
}

// revokeUnknown makes a record of a machine that is nothing but revoked.
func (t *tx) revokeUnknown(name string) (Result, error) {
	if err := starling.CheckName("machine.name", name); err != nil {
		return Result{}, err
	}
	if err := t.checkStandings(starling.StandingRevoked, MaxRevokedMachines); err != nil {
		return Result{}, err
	}
	if t.meta.Machines >= t.limits.machines {
		return Result{}, t.tooMany()
	}
	m := &starling.Machine{Name: name, Standing: starling.StandingRevoked, EnrolledAt: t.now}
	put(t, tableMachines, nil, &row[starling.Machine]{rec: m})
	t.meta.Machines++
	t.emit(starling.Event{Type: EventMachineStanding, Detail: fmt.Sprintf("%s is %s", name, m.Standing)})
	return Result{Machine: m, Created: true}, nil
}

func (t *tx) tooMany() error {
	return fmt.Errorf("%w: region %s has %d machines, as many as it can: remove some, or open another region",
		starling.ErrConflict, t.region, t.meta.Machines)
}

func unknownMachine(name string) error {
	return fmt.Errorf("%w: no machine %.80q is enrolled in this region", starling.ErrNotFound, name)
}

func (t *tx) machineRemove(p *MachineRemove) (Result, error) {
	old := t.machine(p.Name)
	switch {
	case old == nil:
		return Result{}, unknownMachine(p.Name)
	case old.rec.Standing == starling.StandingRevoked && !p.Force:
		return Result{}, fmt.Errorf("%w: machine %s is revoked: to forget it makes its old certificates good again until they expire; if its key is destroyed: starling node remove %s --force",
			starling.ErrConflict, p.Name, p.Name)
	}
	gone := *old.rec
	t.move(old, &gone, "")
	if r := t.machine(p.Name); r != nil {
		drop(t, tableMachines, r)
	}
	t.meta.Machines--
	t.emit(starling.Event{Type: EventMachineRemoved, Detail: p.Name})
	return Result{Machine: old.rec}, nil
}

func checkFacts(f *MachineFacts, most int) error {
	if most < 1 || most > starling.MaxCellMachines {
		return starling.Invalidf("max", "%d machines in a cell: use 1 to %d", most, starling.MaxCellMachines)
	}
	for _, err := range []error{
		starling.CheckName("machine.name", f.Name),
		checkText("machine.zone", f.Zone, MaxMachineWordBytes),
		checkText("machine.rack", f.Rack, MaxMachineWordBytes),
		checkText("machine.gossip", f.Gossip, MaxServerAddrBytes),
	} {
		if err != nil {
			return err
		}
	}
	return checkTags("machine.tags", f.Tags)
}

func checkTags(field string, tags map[string]string) error {
	if len(tags) > starling.MaxMachineTags {
		return starling.Invalidf(field, "%d tags, more than %d", len(tags), starling.MaxMachineTags)
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		size += len(k) + len(tags[k])
		switch k {
		case "", "name", "region", grantedZone, "rack":
			return starling.Invalidf(field, "%q cannot be the name of a tag", k)
		}
		if err := checkText(field, k+tags[k], MaxMachineTagsBytes); err != nil {
			return err
		}
	}
	if size > MaxMachineTagsBytes {
		return starling.Invalidf(field, "%d bytes, more than %d", size, MaxMachineTagsBytes)
	}
	return nil
}
