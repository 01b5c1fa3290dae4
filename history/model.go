package history

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"

	"github.com/anishathalye/porcupine"

	"github.com/starlingdeploy/starling"
)

// phase is a deployment's phase as far as the model tells them apart.
type phase uint8

const (
	queued   phase = iota
	building       // under a lease
	moving         // from replicating to rolling out: it has a goal
	succeeded
	failed
	cancelled
)

// entry is one deployment. It is a value: states share nothing that changes.
type entry struct {
	key      string
	urgent   bool // a rollback goes first
	phase    phase
	worker   string
	token    uint64 // 0 while building: granted by a call whose answer was lost
	attempt  int
	gen      uint64 // 0: no goal yet
	artifact starling.Digest
	fence    starling.Fence // once failed or cancelled; its index is not the model's
}

// state is one app: its deployments in order of submission, and its goal.
type state struct {
	log  []entry
	gen  uint64 // of the goal; 0: none
	key  string // of the deployment that it names
	what starling.Digest
	late []Call // outcome unknown: each may happen yet, or never
}

// Model returns the sequential specification of one app. With silent, a worker may lose its
// lease by silence.
func Model(app string, silent bool) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init:              func() []any { return []any{&state{}} },
		Step:              func(s, in, out any) []any { return step(app, silent, s.(*state), in.(Call), out.(Answer)) },
		Equal:             func(a, b any) bool { return a.(*state).equal(b.(*state)) },
		Hash:              func(s any) uint64 { return s.(*state).hash() },
		DescribeOperation: describe,
	}
	return m.ToModel()
}

func (s *state) equal(o *state) bool {
	return s.gen == o.gen && s.key == o.key && s.what == o.what && slices.Equal(s.log, o.log) && slices.Equal(s.late, o.late)
}

func (s *state) hash() uint64 {
	h := fnv.New64a()
	b := strconv.AppendUint(nil, s.gen, 10)
	for i := range s.log {
		e := &s.log[i]
		b = append(append(b, e.key...), byte(e.phase), byte(e.attempt))
		b = strconv.AppendUint(b, e.token, 10)
	}
	for i := range s.late {
		b = append(append(b, s.late[i].Kind...), s.late[i].Key...)
	}
	h.Write(b)
	return h.Sum64()
}

// with returns a copy of s in which f has changed the entry i.
func (s *state) with(i int, f func(*state, *entry)) *state {
	c := *s
	c.log = slices.Clone(s.log)
	f(&c, &c.log[i])
	return &c
}

func (s *state) find(key string) int {
	return slices.IndexFunc(s.log, func(e entry) bool { return e.key == key })
}

// underWay returns the entry that is neither queued nor ended, -1 if there is none.
func (s *state) underWay() int {
	return slices.IndexFunc(s.log, func(e entry) bool { return e.phase == building || e.phase == moving })
}

// next returns the queued entry that goes first, while none is under way.
func (s *state) next() int {
	if s.underWay() >= 0 {
		return -1
	}
	if i := slices.IndexFunc(s.log, func(e entry) bool { return e.phase == queued && e.urgent }); i >= 0 {
		return i
	}
	return slices.IndexFunc(s.log, func(e entry) bool { return e.phase == queued })
}

// release returns the newest entry that succeeded and that want chooses.
func (s *state) release(want func(*entry) bool) *entry {
	var newest *entry
	for i := range s.log {
		e := &s.log[i]
		if e.phase == succeeded && (newest == nil || e.gen > newest.gen) && want(e) {
			newest = e
		}
	}
	return newest
}

// begin gives the entry its goal.
func begin(s *state, e *entry) {
	s.gen++
	e.phase, e.gen = moving, s.gen
	s.key, s.what = e.key, e.artifact
}

// end ends an entry badly: its lease is void, its goal taken back.
func end(s *state, e *entry, how phase) {
	e.fence = starling.Fence{Lease: e.token}
	if e.phase == moving {
		s.gen++
		e.fence.Generation, e.fence.Goal = generation(e.gen), generation(s.gen)
		s.what, s.key = starling.Digest{}, e.key
		if r := s.release(func(*entry) bool { return true }); r != nil {
			s.what, s.key = r.artifact, r.key
		}
	}
	e.phase, e.token = how, 0
}

// lose takes a build back from its worker.
func lose(s *state, e *entry) {
	if e.attempt >= starling.MaxBuildAttempts {
		end(s, e, failed)
		return
	}
	e.phase, e.token, e.worker = queued, 0, ""
}

func generation(n uint64) starling.Generation {
	if n == 0 {
		return starling.Generation{}
	}
	return starling.Generation{Epoch: 1, Sequence: n}
}

// alone lists s and all states that may follow without a call that is known to happen
// now: by what leaders do, and by calls whose outcome is unknown.
func (s *state) alone(silent bool) []*state {
	out := []*state{s}
	add := func(next *state) {
		if !slices.ContainsFunc(out, next.equal) {
			out = append(out, next)
		}
	}
	for n := 0; n < len(out); n++ {
		now := out[n]
		if i := now.underWay(); i >= 0 {
			if now.log[i].phase == moving {
				add(now.with(i, func(_ *state, e *entry) { e.phase = succeeded }))
			} else if silent {
				add(now.with(i, lose))
			}
		} else if i := now.next(); i >= 0 && !now.log[i].artifact.IsZero() {
			add(now.with(i, begin))
		}
		for i, c := range now.late {
			if i > 0 && c == now.late[i-1] {
				continue // the same again
			}
			for _, next := range now.perhaps(c) {
				next.late = slices.Delete(slices.Clone(now.late), i, i+1)
				next.settle()
				add(next)
			}
			if c.Kind == Lease { // while it waits for a job it may take back others, of any app
				add(now.lost(c.Worker))
			}
		}
	}
	return out
}

// settle forgets late calls that can change nothing any more.
func (s *state) settle() {
	s.late = slices.DeleteFunc(s.late, func(c Call) bool {
		i := s.find(c.Key)
		switch c.Kind {
		case Submit, Rollback:
			return i >= 0
		case Cancel, Complete, Fail:
			return i >= 0 && s.log[i].phase >= succeeded
		}
		return false
	})
}

// later returns a copy of s in which c may happen at any time.
func (s *state) later(c Call) *state {
	next := *s
	next.late = append(slices.Clone(s.late), c)
	slices.SortFunc(next.late, func(a, b Call) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Token, b.Token))
	})
	next.settle()
	return &next
}
