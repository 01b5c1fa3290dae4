package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// Fault is one line of a failure script: what befalls whom, and when.
type Fault struct {
	Action Action
	Cache  bool    // a cache; else machines:
	Count  int     // so many,
	Share  float64 // or this share of all
	// When: at this share of all bytes that the machines must receive, or, with After over
	// zero, so long after they could begin.
	Delivered float64
	After     time.Duration
	For       time.Duration // of a cut, how long it lasts
	Text      string        // as it was written
}

// Action is what a fault does.
type Action string

// The actions.
const (
	Kill    Action = "kill"    // -9
	Restart Action = "restart" // kill -9, and start again 2 s later
	Stop    Action = "stop"    // SIGSTOP: open connections stay, and nothing moves on them
	Slow    Action = "slow"    // the link has a hundredth of its rate left
	Mute    Action = "mute"    // a one-way partition: nothing that it sends arrives
	Cut     Action = "cut"     // those whom it befalls and all others lose each other, and find together later
)

// MaxFaults bounds a script.
const MaxFaults = 32

// cutFor is how long a cut lasts unless the script says so: longer than connections take to give the
// other side up. Gossip takes about 15 s.
const cutFor = 8 * time.Second

// ParseFaults reads a failure script: faults with semicolons between them, each of the form
//
//	kill|restart|stop|slow|mute|cut  N | P% | cache  at  P% | DURATION  [for DURATION]
//
// like "kill 10% at 50%; slow 1 at 0%; kill cache at 3s; cut 50% at 30% for 30s". Only a cut has an end.
func ParseFaults(script string) ([]Fault, error) {
	var out []Fault
	for text := range strings.SplitSeq(script, ";") {
		text = strings.Join(strings.Fields(text), " ")
		if text == "" {
			continue
		}
		f, err := parseFault(text)
		if err != nil {
			return nil, starling.Invalidf("--faults", "%.60q: %s", text, err)
		}
		out = append(out, f)
	}
	if len(out) > MaxFaults {
		return nil, starling.Invalidf("--faults", "%d faults, %d at most", len(out), MaxFaults)
	}
	return out, nil
}

func parseFault(text string) (Fault, error) {
	f := Fault{Text: text}
	words := strings.Fields(text)
	long := len(words) == 6 && words[0] == string(Cut) && words[4] == "for"
	if len(words) != 4 && !long || words[2] != "at" {
		return f, fmt.Errorf("want a form like %q", "kill 10% at 50%")
	}
	switch f.Action = Action(words[0]); f.Action {
	case Kill, Restart, Stop, Slow, Mute, Cut:
	default:
		return f, fmt.Errorf("no such action, these are: %s, %s, %s, %s, %s, %s", Kill, Restart, Stop, Slow, Mute, Cut)
	}
	var err error
	if f.Action == Cut {
		f.For = cutFor
	}
	if long {
		if f.For, err = time.ParseDuration(words[5]); err != nil || f.For <= 0 {
			return f, fmt.Errorf("%.20q: want how long a cut lasts, like 30s", words[5])
		}
	}
	switch who := words[1]; {
	case who == "cache":
		f.Cache = true
	case strings.HasSuffix(who, "%"):
		if f.Share, err = starling.ParsePercent(who); err != nil {
			return f, err
		}
	default:
		if f.Count, err = strconv.Atoi(who); err != nil || f.Count < 1 {
			return f, fmt.Errorf("%.20q: want a number of machines, a percentage, or cache", who)
		}
	}
	if when := words[3]; strings.HasSuffix(when, "%") {
		if f.Delivered, err = starling.ParsePercent(when); err != nil {
			return f, err
		}
	} else if f.After, err = time.ParseDuration(when); err != nil || f.After <= 0 {
		return f, fmt.Errorf("%.20q: want a percentage of what is delivered, or a time like 5s", when)
	}
	return f, nil
}

// due reports whether it is time: began is when the machines could begin, delivered
// the share of all bytes that they have received.
func (f *Fault) due(since time.Duration, delivered float64) bool {
	if f.After > 0 {
		return since >= f.After
	}
	return delivered >= f.Delivered
}

// victims deals machines, or caches, to faults by their indexes; nobody is harmed twice.
// The same seed deals alike.
func victims(faults []Fault, machines, caches int, seed uint64) ([][]int, error) {
	order := rand.New(rand.NewPCG(seed, uint64(machines))).Perm(machines)
	nextCache := 0
	out := make([][]int, len(faults))
	for i, f := range faults {
		if f.Cache {
			if nextCache == caches {
				return nil, starling.Invalidf("--faults", "more caches are harmed than the %d that there are", caches)
			}
			out[i] = []int{nextCache}
			nextCache++
			continue
		}
		n := f.Count
		if n == 0 {
			n = max(1, int(math.Round(f.Share*float64(machines))))
		}
		if n >= len(order) {
			return nil, starling.Invalidf("--faults", "no machine of %d would be left unharmed", machines)
		}
		out[i], order = order[:n], order[n:]
	}
	return out, nil
}
