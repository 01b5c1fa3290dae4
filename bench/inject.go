package bench

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/lab"
	"github.com/starlingdeploy/starling/world"
)

// FaultResult is what a fault of the script did.
type FaultResult struct {
	Fault string   `json:"fault"` // as the script has it
	Nodes []string `json:"nodes"`

	// Happened is false if all was delivered before it was due.
	Happened  bool            `json:"happened"`
	AtS       float64         `json:"at_s"`      // since the machines could begin
	Delivered float64         `json:"delivered"` // share of all bytes, at that time
	Restarts  []RestartResult `json:"restarts,omitempty"`

	HealedS float64 `json:"healed_s,omitempty"` // of a cut: when it was over, since the machines could begin
	WholeS  float64 `json:"whole_s,omitempty"`  // likewise: when the region counted every machine again
}

// RestartResult is how a machine that was killed and started again went on. What it had
// and fetched again is estimated from its link's counters, to about 1 % of the content.
type RestartResult struct {
	Node           string  `json:"node"`
	DoneS          float64 `json:"done_s"` // 0: not before the round's end
	HadBytes       int64   `json:"had_bytes"`
	RefetchedBytes int64   `json:"refetched_bytes"`
}

// restartAfter is how long a restarted process is away.
const restartAfter = 2 * time.Second

// slowShare is what is left of a slowed link's rate; of one without a limit, slowMbit.
const (
	slowShare = 0.01
	slowMbit  = 10
)

// injector carries out a failure script. It is the distribution's, and for one goroutine.
type injector struct {
	cfg      SwarmConfig
	stand    *stand
	world    *world.World
	account  *account
	zero     []lab.Traffic // before the round
	pending  []*injection
	restarts []*restart
	cuts     []*cutting
	harmed   map[*world.Proc]bool // by whatever fault
	stopped  []*world.Proc
	results  []*FaultResult
}

// injection is a fault with those whom it befalls.
type injection struct {
	Fault
	procs  []*world.Proc
	hosts  []lab.Host
	result *FaultResult
}

type restart struct {
	due    time.Time // to start again; zero: it has been
	proc   *world.Proc
	host   lab.Host
	hadIn  int64 // bytes that had come through its link
	result *FaultResult
}

func newInjector(c SwarmConfig, s *stand, w *world.World, a *account, seed uint64) (*injector, error) {
	in := &injector{cfg: c, stand: s, world: w, account: a, harmed: map[*world.Proc]bool{}}
	if len(c.Faults) == 0 {
		return in, nil
	}
	var err error
	if in.zero, err = s.lab.Counters(); err != nil {
		return nil, err
	}
	chosen, err := victims(c.Faults, c.Machines, c.Caches, seed)
	if err != nil {
		return nil, err
	}
	for i, f := range c.Faults {
		j := &injection{Fault: f, result: &FaultResult{Fault: f.Text}}
		role, hosts := starling.RoleMachine, s.machineHosts()
		if f.Cache {
			role, hosts = starling.RoleCache, s.seedHosts()
		}
		for _, k := range slices.Sorted(slices.Values(chosen[i])) {
			p := w.WithRole(role)[k]
			j.procs, j.hosts = append(j.procs, p), append(j.hosts, hosts[k])
			j.result.Nodes = append(j.result.Nodes, p.Name)
			in.harmed[p] = f.Action != Cut // those come through
		}
		if f.Action == Cut {
			in.cuts = append(in.cuts, &cutting{injection: j})
		}
		in.pending, in.results = append(in.pending, j), append(in.results, j.result)
	}
	return in, nil
}

// received returns what has come through a host's link in this round.
func (in *injector) received(h lab.Host) (int64, error) {
	now, err := in.stand.lab.Counters()
	if err != nil {
		return 0, err
	}
	i := slices.Index(in.stand.lab.Hosts(), h)
	return now[i].InBytes - in.zero[i].InBytes, nil
}

// delivered returns the share of all bytes that the machines have received, headers included.
func (in *injector) delivered() (float64, error) {
	sum := int64(0)
	for _, h := range in.stand.machineHosts() {
		n, err := in.received(h)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return float64(sum) / float64(in.cfg.Bytes) / float64(in.cfg.Machines), nil
}

// tick carries out what is due, since the machines could begin.
func (in *injector) tick(since time.Duration) error {
	delivered, err := in.delivered()
	if err != nil {
		return err
	}
	var left []*injection
	for _, j := range in.pending {
		if !j.due(since, delivered) {
			left = append(left, j)
			continue
		}
		j.result.AtS, j.result.Delivered, j.result.Happened = since.Seconds(), delivered, true
		for i, p := range j.procs {
			if err := in.harm(j, p, j.hosts[i]); err != nil {
				return fmt.Errorf("%s: %w", j.Text, err)
			}
		}
		if j.Action == Cut {
			if err := in.cut(j); err != nil {
				return fmt.Errorf("%s: %w", j.Text, err)
			}
		}
	}
	in.pending = left
	if err := in.heal(since); err != nil {
		return err
	}
	for _, r := range in.restarts {
		if !r.due.IsZero() && time.Now().After(r.due) {
			r.due = time.Time{}
			if err := in.world.StartOne(r.proc); err != nil {
				return err
			}
			delete(in.account.buried, r.proc)
		}
	}
	return nil
}

func (in *injector) harm(j *injection, p *world.Proc, h lab.Host) error {
	switch j.Action {
	case Kill, Restart:
		if err := in.account.bury(p); err != nil {
			return err
		}
		if err := p.Kill(); err != nil {
			return err
		}
		if j.Action == Restart {
			had, err := in.received(h)
			in.restarts = append(in.restarts, &restart{due: time.Now().Add(restartAfter), proc: p, host: h, hadIn: had, result: j.result})
			return err
		}
		return nil
	case Stop:
		in.stopped = append(in.stopped, p)
		return syscall.Kill(p.PID(), syscall.SIGSTOP)
	case Slow:
		mbit := float64(in.cfg.RateMbit) * slowShare
		if mbit == 0 {
			mbit = slowMbit
		}
		return in.stand.lab.ShapeBoth(h, mbit, mbit)
	case Mute:
		return in.stand.lab.Mute(h)
	case Cut: // of all at once
		return nil
	}
	return fmt.Errorf("no such action: %s", j.Action)
}

// awaited are the machines that must hold all in the end: the unharmed, and those that
// are, or are to be, started again.
func (in *injector) awaited() []*world.Proc {
	machines := in.world.WithRole(starling.RoleMachine)
	return slices.DeleteFunc(machines, func(p *world.Proc) bool { return in.harmed[p] && !in.again(p) })
}

func (in *injector) again(p *world.Proc) bool {
	return slices.ContainsFunc(in.restarts, func(r *restart) bool { return r.proc == p })
}

// judgeRestarts fills in what restarted machines had to fetch again: what came before
// the kill, by the link, and after it, by the log, beyond the content. perByte is what an
// unharmed machine's link carries for each byte of content.
func (in *injector) judgeRestarts(began time.Time, perByte float64) error {
	for _, r := range in.restarts {
		log, err := os.ReadFile(r.proc.Log)
		if err != nil {
			return err
		}
		x := RestartResult{Node: r.proc.Name, HadBytes: int64(float64(r.hadIn) / perByte)}
		if at := loggedAt(log, msgFetched, began); !at.IsZero() {
			x.DoneS = at.Sub(began).Seconds()
		}
		if cache, peer, ok := loggedBytes(log, began); ok {
			x.RefetchedBytes = max(0, x.HadBytes+cache+peer-in.cfg.Bytes)
		}
		r.result.Restarts = append(r.result.Restarts, x)
	}
	return nil
}

// release ends stopped processes, which could not end by themselves.
func (in *injector) release() error {
	var errs []error
	for _, p := range in.stopped {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}
