package plane

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	hopWithin   = 3 * time.Second
	leaseWaits  = 10 * time.Second // that a worker's question stays open
	mirrorWaits = time.Second
	idleWaits   = 5 * time.Second // instead, where nothing is under way
)

type (
	// reply answers a request.
	reply = func(any, error)
	// handler serves a request at a server.
	handler = func(*server, reply)
)

// leaseWait is a worker that waits for a job.
type leaseWait struct {
	ask     *control.LeaseAsk
	worker  string
	holding []string
	until   time.Duration
	reply   reply
}

// pullWait is another region that waits for news.
type pullWait struct {
	index uint64
	until time.Duration
	reply reply
}

// atLeader serves a request at the leader of the server's region, hops servers away at
// most.
func (s *server) atLeader(hops int, serve handler, answer reply) {
	lead := s.raft.lead
	switch {
	case s.reign != nil:
		serve(s, answer)
	case hops == 0 || lead == nobody || lead == s.id:
		answer(nil, fmt.Errorf("region %s has no leader: %w", s.region.name, starling.ErrUnavailable))
	default:
		to := s.region.servers[lead]
		s.w.ask(&s.node, to, hopWithin, func(l *server, r reply) { l.atLeader(0, serve, r) }, answer)
	}
}

// atHome serves a request at the leader of an app's or a deployment's home, as this
// server knows it.
func (s *server) atHome(app, id string, serve handler, answer reply) {
	home := ""
	v := s.fsm.View()
	if d, ok := v.Deployment(id); ok {
		home = d.Home
	} else if a, ok := v.App(app); ok && id == "" {
		home = a.Home
	}
	for _, r := range s.w.regions {
		switch {
		case r.name != home:
		case r == s.region:
			s.atLeader(1, serve, answer)
		default:
			s.w.ask(&s.node, r.anyServer(), 2*hopWithin, func(l *server, a reply) { l.atLeader(1, serve, a) }, answer)
		}
	}
	if home == "" {
		answer(nil, fmt.Errorf("%s%s: %w", app, id, starling.ErrNotFound))
	}
}

// commit proposes one command for a caller.
func (s *server) commit(actor string, t raftfsm.Type, payload any, answer reply) {
	cmd, err := raftfsm.NewCommand(t, s.clock(), actor, payload)
	if err != nil {
		s.w.fail("%s: %v", s.name, err)
		return
	}
	reign := s.reign
	supported := func() error {
		if !control.OfHome(t) || s.w.conf.Break == NoRegionLease {
			return nil
		}
		return reign.Supported(s.fsm.View(), s.clock())
	}
	if err := supported(); err != nil {
		answer(nil, err)
		return
	}
	s.propose([]raftfsm.Command{cmd}, func(results []raftfsm.Result, err error) {
		switch {
		case err != nil:
			answer(nil, err)
		case supported() != nil:
			answer(nil, fmt.Errorf("%w: the outcome is not certain", starling.ErrUnavailable))
		case results[0].Err != nil:
			answer(nil, results[0].Err)
		default:
			if d := results[0].Deployment; d != nil && control.OfHome(t) {
				s.w.answers(s, d)
			}
			answer(results[0].Deployment, nil)
		}
	})
}

// submit queues a deployment in which every known region takes part.
func (s *server) submit(actor string, sub raftfsm.Submit, answer reply) {
	if s.w.conf.Break == KeylessRetry {
		sub.IdempotencyKey = ""
	}
	s.region.ids++
	sub.ID = fmt.Sprintf("d-%s-%d", s.region.name, s.region.ids)
	sub.Regions = append(control.OtherRegions(s.fsm.View(), s.region.name, s.region.others()), s.region.name)
	s.commit(actor, raftfsm.TypeSubmit, sub, answer)
}

// serveWaiting answers workers and regions that wait, where there is something to say.
func (s *server) serveWaiting() {
	s.grant()
	pulls := s.pulls
	s.pulls = nil
	for _, p := range pulls {
		s.servePull(p)
	}
}

// grant hands out jobs as far as there are any.
func (s *server) grant() {
	batch := s.desk.Take(s.fsm.View())
	s.answerLeases()
	if len(batch) == 0 {
		return
	}
	cmds, err := control.LeaseCommands(batch, s.clock())
	if err != nil {
		s.w.fail("%s: %v", s.name, err)
		return
	}
	reign := s.reign
	s.propose(cmds, func(results []raftfsm.Result, err error) {
		if s.reign != reign {
			return // those who asked hear nothing, and ask again
		}
		reign.Grant(batch, results, err, s.clock())
		s.desk.Done(batch)
		s.answerLeases()
		s.grant()
	})
}

// answerLeases passes on what the desk has answered, and what has waited long enough.
func (s *server) answerLeases() {
	waiting := s.leases
	s.leases = nil
	for _, l := range waiting {
		job, again, ok, err := l.ask.Answer()
		switch {
		case ok && again:
			s.wait(l)
		case ok:
			l.reply(job, err)
		case s.w.now >= l.until && l.ask.Withdraw():
			l.reply((*starling.Deployment)(nil), nil)
		default:
			s.leases = append(s.leases, l)
		}
	}
}

// wait queues a worker's question.
func (s *server) wait(l leaseWait) {
	l.ask = control.NewLeaseAsk(l.worker, l.holding, false)
	s.desk.Add(l.ask)
	s.leases = append(s.leases, l)
}

// servePull answers as soon as there is news.
func (s *server) servePull(p pullWait) {
	b := s.reign.Batch(s.fsm.View(), p.index)
	if b.Mirror.Index > p.index || s.w.now >= p.until {
		b.Standing = s.reign.Standing(s.fsm.View(), s.clock())
		p.reply(b, nil)
		return
	}
	s.pulls = append(s.pulls, p)
}

func (s *server) leaseFor(worker string, holding []string, answer reply) {
	s.wait(leaseWait{worker: worker, holding: holding, until: s.w.now + leaseWaits, reply: answer})
	s.grant()
	s.wakeAfter(leaseWaits)
}

func (s *server) batchFor(from string, index uint64, echo *rpc.Echo, answer reply) {
	s.reign.Echoed(from, echo, index)
	wait := mirrorWaits
	if !s.w.busy() && s.w.plan.takeoverAfter == 0 {
		wait = idleWaits
	}
	s.servePull(pullWait{index: index, until: s.w.now + wait, reply: answer})
	s.wakeAfter(wait)
}

// wakeAfter lets those who wait hear that there is nothing.
func (s *server) wakeAfter(d time.Duration) {
	life, term := s.life, s.term
	s.w.after(d, func() {
		s.run(life, func() {
			if s.reign != nil && s.term == term {
				s.serveWaiting()
			}
		})
	})
}

func (s *server) heartbeat(worker, id string, lease uint64, answer reply) {
	answer(nil, s.reign.Heartbeat(s.fsm.View(), worker, id, rpc.HeartbeatRequest{Lease: lease}, s.clock()))
}

// failJob tells that a build has failed; that the lease is in force is the state machine's to say.
func (s *server) failJob(worker, id string, lease uint64, answer reply) {
	s.commit("worker:"+worker, raftfsm.TypeJobFail, raftfsm.JobFail{ID: id, Lease: lease, Reason: "exit status 1"}, answer)
}

func (s *server) complete(worker, id string, req rpc.CompleteRequest, answer reply) {
	v := s.fsm.View()
	if d, ok := v.Deployment(id); s.w.conf.Break == StaleLease && ok && d.Lease != 0 {
		req.Lease = d.Lease
		s.commit("worker:"+worker, raftfsm.TypeJobComplete, raftfsm.JobComplete{ID: id, Lease: d.Lease, Artifact: req.Artifact}, answer)
		return
	}
	done, _, err := s.reign.Complete(v, worker, id, req)
	if err != nil {
		answer(nil, err)
		return
	}
	s.commit("worker:"+worker, raftfsm.TypeJobComplete, done, answer)
}

func (s *server) cacheReport(r rpc.CacheReport, answer reply) {
	err := s.reign.CacheReport(r, s.clock())
	s.look(lookRest)
	answer(nil, err)
}

func (s *server) machineReports(r []starling.MachineReport, answer reply) {
	news, err := s.reign.MachineReports(s.fsm.View(), r, s.clock())
	if news {
		s.look(lookRest)
	}
	answer(nil, err)
}

func (s *server) cellReport(r rpc.CellReport, answer reply) {
	res, news, err := s.reign.CellReport(s.fsm.View(), r, s.clock())
	if len(res.Seeds) > 0 {
		s.w.stats.Halves++
	}
	if news {
		s.look(lookRest)
	}
	answer(nil, err)
}

func (s *server) regionReports(r []starling.RegionReport, answer reply) {
	err := s.reign.RegionReports(s.fsm.View(), r, s.clock())
	s.look(lookRest)
	answer(nil, err)
}

// federate begins the term's loops: from each other region records come, to it reports go.
func (s *server) federate(life, term uint64) {
	for _, o := range s.w.regions {
		if o == s.region {
			continue
		}
		l := &link{s: s, other: o, life: life, term: term}
		l.again(0, l.pull)
		l.again(0, l.report)
	}
}

// link is a leader's dealings with one other region.
type link struct {
	s          *server
	other      *region
	life, term uint64
	cursor     uint64
	last       []starling.RegionReport
	sent       time.Time
}

func (l *link) over() bool {
	return !l.s.up || l.s.life != l.life || l.s.reign == nil || l.s.term != l.term
}

func (l *link) again(d time.Duration, f func()) {
	l.s.w.after(d, func() {
		if !l.over() {
			f()
		}
	})
}

func (l *link) pull() {
	s := l.s
	l.cursor = max(l.cursor, s.fsm.View().MirrorIndex(l.other.name))
	asked, echo := l.cursor, s.reign.Echo(s.fsm.View(), l.other.name)
	s.w.ask(&s.node, l.other.anyServer(), 2*hopWithin+idleWaits, func(t *server, r reply) {
		t.atLeader(1, func(t *server, r reply) { t.batchFor(s.region.name, asked, echo, r) }, r)
	}, func(got any, err error) {
		s.run(l.life, func() {
			if l.over() {
				return
			}
			b, ok := got.(rpc.MirrorBatch)
			if err != nil || !ok {
				l.again(s.w.between(500*time.Millisecond, 3*time.Second), l.pull)
				return
			}
			l.learn(b)
		})
	})
}

func (l *link) learn(b rpc.MirrorBatch) {
	s := l.s
	s.reign.Heard(s.fsm.View(), l.other.name, b.Standing, s.clock())
	news, worth := s.reign.Learn(b, l.cursor, s.clock())
	if news {
		s.look(lookRest)
	}
	if !worth {
		l.cursor = max(l.cursor, b.Mirror.Index)
		l.again(0, l.pull)
		return
	}
	reached := b.Mirror.Index
	s.region.disorder(&b.Mirror)
	s.commit("server:"+s.name, raftfsm.TypeMirror, raftfsm.Mirror{Batch: b.Mirror}, func(_ any, err error) {
		if l.over() {
			return
		}
		if err == nil || !unavailable(err) {
			l.cursor = max(l.cursor, reached)
		}
		l.again(0, l.pull)
	})
}

func (l *link) report() {
	s := l.s
	l.again(s.w.between(500*time.Millisecond, time.Second), l.report)
	if !s.w.busy() {
		return
	}
	s.run(l.life, func() {
		if l.over() {
			return
		}
		now := s.clock()
		reports := s.reign.ReportsFor(s.fsm.View(), l.other.name, now)
		if len(reports) == 0 || !control.WorthSending(reports, l.last, now.Sub(l.sent)) {
			return
		}
		sent := l.copied(reports, now)
		s.w.ask(&s.node, l.other.anyServer(), 2*hopWithin, func(t *server, r reply) {
			t.atLeader(1, func(t *server, r reply) { t.regionReports(sent, r) }, r)
		}, func(_ any, err error) {
			if err == nil {
				l.last, l.sent = reports, now
			}
		})
	})
}

// copied is what arrives at the other side of a wire.
func (l *link) copied(reports []starling.RegionReport, now time.Time) []starling.RegionReport {
	var out []starling.RegionReport
	b, err := json.Marshal(reports)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		l.s.w.fail("%s: reports: %v", l.s.name, err)
	}
	for i := range out {
		out[i].Marks.Now = now
	}
	return out
}
