package chaos

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// lateAfter is how long after its deadline a deployment must have ended.
const lateAfter = 10 * time.Second

// maxProblems bounds the problems told in words; all are counted.
const maxProblems = 50

// submission is what this side knows of one idempotency key.
type submission struct {
	key, app  string
	deadline  time.Duration
	first     time.Time // asked for the first time
	ackAt     time.Time // zero: not acknowledged
	ids       []string  // that were answered; more than one: deployed twice
	cancelled bool      // a cancel was answered with success
	refused   string    // answered with an error that no retry mends
}

// history is what the events of all servers said of one deployment.
type history struct {
	terminal []starling.Phase // distinct ones
	endedAt  time.Time        // when the first came
}

// ledger is the account of all submissions. Safe for concurrent use.
type ledger struct {
	mu        sync.Mutex
	byKey     map[string]*submission
	order     []*submission
	histories map[string]*history
	acks      []time.Duration // from the first try to the answer
}

func newLedger() *ledger {
	return &ledger{byKey: map[string]*submission{}, histories: map[string]*history{}}
}

func (l *ledger) submit(key, app string, deadline time.Duration, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &submission{key: key, app: app, deadline: deadline, first: at}
	l.byKey[key] = s
	l.order = append(l.order, s)
}

func (l *ledger) acknowledge(key, id string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.byKey[key]
	if s.ackAt.IsZero() {
		s.ackAt = at
		l.acks = append(l.acks, at.Sub(s.first))
	}
	if !slices.Contains(s.ids, id) {
		s.ids = append(s.ids, id)
	}
}

func (l *ledger) refuse(key, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byKey[key].refused = why
}

// cancel notes that the cancel of a deployment was answered with success.
func (l *ledger) cancel(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.order {
		if slices.Contains(s.ids, id) {
			s.cancelled = true
		}
	}
}

// phase notes what a server's event said. Another server may have said it before.
func (l *ledger) phase(id string, p starling.Phase, at time.Time) {
	if !p.Terminal() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.histories[id]
	if h == nil {
		h = &history{endedAt: at}
		l.histories[id] = h
	}
	if !slices.Contains(h.terminal, p) {
		h.terminal = append(h.terminal, p)
	}
}

// open counts acknowledged deployments whose end has not been seen.
func (l *ledger) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.order {
		if len(s.ids) > 0 && l.histories[s.ids[0]] == nil {
			n++
		}
	}
	return n
}

// patience returns until when the last acknowledged deployment must have ended.
func (l *ledger) patience() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out time.Time
	for _, s := range l.order {
		if end := s.ackAt.Add(s.deadline + lateAfter); end.After(out) {
			out = end
		}
	}
	return out
}

// held is what one server holds in the end: of each key the deployments, of each
// deployment the phase.
type held struct {
	server string
	home   map[string]bool // apps whose home is this server's region
	keys   map[string][]string
	phases map[string]starling.Phase
	why    map[string]string // of failed deployments
}

// Counts is the judgement on all submissions.
type Counts struct {
	Submitted    int `json:"submitted"`    // with a key of their own
	Acknowledged int `json:"acknowledged"` // answered with success
	Ended        int `json:"ended"`        // of these, reached a terminal phase
	Lost         int `json:"lost"`         // acknowledged, and missing on a server of the home
	Duplicated   int `json:"duplicated"`   // keys with more than one deployment

	EndedTwice  int                    `json:"ended_twice"` // deployments with two terminal phases, over time or among servers
	Uncancelled int                    `json:"uncancelled"` // cancelled with success, and ended otherwise
	Late        int                    `json:"late"`        // ended later than 10 s after the deadline
	Unmirrored  int                    `json:"unmirrored"`  // missing, or with another end, in another region
	Untold      int                    `json:"untold"`      // ended without an event that said so; no promise: a watcher may be told of a gap
	Refused     int                    `json:"refused"`     // answered with an error that no retry mends
	Unanswered  int                    `json:"unanswered"`  // neither acknowledged nor refused when time was up
	ByPhase     map[starling.Phase]int `json:"by_phase"`
}

// judge compares the account with what all servers hold.
func (l *ledger) judge(servers []held) (Counts, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Counts{ByPhase: map[starling.Phase]int{}}
	var problems []string
	say := func(counter *int, format string, args ...any) {
		*counter++
		if len(problems) < maxProblems {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	for _, s := range l.order {
		c.Submitted++
		all := slices.Clone(s.ids)
		for _, h := range servers {
			for _, id := range h.keys[s.key] {
				if !slices.Contains(all, id) {
					all = append(all, id)
				}
			}
		}
		if len(all) > 1 {
			say(&c.Duplicated, "key %s of app %s has the deployments %v", s.key, s.app, all)
		}
		switch {
		case s.refused != "":
			say(&c.Refused, "key %s of app %s was refused: %s", s.key, s.app, s.refused)
			continue
		case len(s.ids) == 0:
			say(&c.Unanswered, "key %s of app %s was never answered", s.key, s.app)
			continue
		}
		c.Acknowledged++
		l.judgeOne(s, servers, &c, say)
	}
	return c, problems
}

func (l *ledger) judgeOne(s *submission, servers []held, c *Counts, say func(*int, string, ...any)) {
	id := s.ids[0]
	var ends []starling.Phase
	lost, unmirrored, open := "", "", ""
	if h := l.histories[id]; h != nil {
		ends = slices.Clone(h.terminal)
		if late := h.endedAt.Sub(s.ackAt) - s.deadline; late > lateAfter {
			say(&c.Late, "%s of app %s ended %s after its deadline", id, s.app, late.Round(time.Second/10))
		}
	}
	for _, h := range servers {
		p, there := h.phases[id]
		switch {
		case !there && h.home[s.app]:
			lost = h.server
		case !there:
			unmirrored = h.server
		case p.Terminal() && !slices.Contains(ends, p):
			ends = append(ends, p)
		case !p.Terminal() && h.home[s.app]:
			open = fmt.Sprintf("%s on %s", p, h.server)
		case !p.Terminal():
			unmirrored = h.server
		}
	}
	if lost != "" {
		say(&c.Lost, "%s of app %s was acknowledged and is not on %s", id, s.app, lost)
	}
	if unmirrored != "" {
		say(&c.Unmirrored, "%s of app %s is missing or open on %s", id, s.app, unmirrored)
	}
	if len(ends) > 1 {
		say(&c.EndedTwice, "%s of app %s ended as %v", id, s.app, ends)
	}
	if open != "" || len(ends) == 0 {
		if len(ends) == 1 {
			say(&c.EndedTwice, "%s of app %s ended as %s and is %s", id, s.app, ends[0], open)
		} else {
			say(new(int), "%s of app %s has not ended: %s", id, s.app, open)
		}
		return
	}
	if l.histories[id] == nil {
		say(&c.Untold, "no event said that %s of app %s ended as %s", id, s.app, ends[0])
	}
	c.Ended++
	c.ByPhase[ends[0]]++
	if s.cancelled && !slices.Contains(ends, starling.PhaseCancelled) {
		say(&c.Uncancelled, "%s of app %s was cancelled with success and %s", id, s.app, ends[0])
	}
}

// Verdict returns nil if every promise was kept.
func (c *Counts) Verdict() error {
	if open := c.Acknowledged - c.Ended; c.Lost+c.Duplicated+open+c.EndedTwice+c.Uncancelled+c.Late+c.Unmirrored+c.Unanswered > 0 {
		return fmt.Errorf("lost %d, duplicated %d, not ended %d, ended twice %d, uncancelled %d, late %d, not in every region %d, unanswered %d",
			c.Lost, c.Duplicated, open, c.EndedTwice, c.Uncancelled, c.Late, c.Unmirrored, c.Unanswered)
	}
	return nil
}
