package membership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
)

// Join contacts gossip addresses, host or host:port, and returns how many answered. The
// error is not nil if none did.
func (p *Pool) Join(addrs []string) (int, error) {
	if len(addrs) == 0 || len(addrs) > maxJoinAddrs {
		return 0, starling.Invalidf("join", "want 1 to %d addresses, not %d", maxJoinAddrs, len(addrs))
	}
	for _, a := range addrs {
		if _, _, err := splitAddr("join", a, DefaultPort); err != nil {
			return 0, err
		}
	}
	n, err := p.join(context.Background(), addrs)
	if err != nil {
		return n, fmt.Errorf("join %v: %w", addrs, err)
	}
	return n, nil
}

// Joined returns a channel that is closed once another member has been reached.
func (p *Pool) Joined() <-chan struct{} { return p.joined }

// join resolves names itself, so that a list which holds this process's own address,
// as lists common to all servers do, does not pass for a join.
func (p *Pool) join(ctx context.Context, addrs []string) (int, error) {
	targets, err := p.resolve(ctx, addrs)
	var others []string
	for _, t := range targets {
		if t != p.addr {
			others = append(others, t)
		}
	}
	if len(others) == 0 {
		return 0, err // nil: there is nobody but this process to join
	}
	return p.serf.Join(others, true)
}

// resolve returns the ip:port forms of addrs. The error is that of the last name that failed.
func (p *Pool) resolve(ctx context.Context, addrs []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, maxResolve)
	defer cancel()
	var out []string
	var failed error
	for _, a := range addrs {
		host, port, err := splitAddr("join", a, DefaultPort)
		if err != nil {
			failed = err
			continue
		}
		ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
		if err != nil {
			failed = fmt.Errorf("look up %q: %w", host, err)
			continue
		}
		for _, ip := range ips[:min(len(ips), resolvedAddrsBound)] {
			out = append(out, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
		}
	}
	return out, failed
}

// Seed replaces the addresses to join when this process is alone. Malformed ones are skipped.
func (p *Pool) Seed(addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seeds = slices.Clone(addrs[:min(len(addrs), maxJoinAddrs)])
}

func (p *Pool) seeded() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seeds
}

// standing is how a pool's process stands with the others.
type standing int

const (
	alone  standing = iota // it knows no live member
	cutOff                 // none of those that it joins by is a live member, while others are
	joined
)

// keepJoined joins the configured addresses or, if none answers, the remembered ones: with
// back-off until another member is known. From then on it joins those of them that are no
// live member: with back-off while none is, as when a region's servers all stop and start
// again, else now and then, so that a region that was cut in two for long finds together
// again. The parts of a cell are brought together by their servers instead, and a cell's
// members join by one that answers: each would send all members it knows.
//
// Gossip tells of somebody new a few times and then no more, and where hundreds join at
// once, each knows few whom to tell: some are not heard of by all, and would not be until the next
// of memberlist's exchanges, minutes later. So a cell's member compares its list with
// another's a few times after it has come.
func (p *Pool) keepJoined(ctx context.Context, remembered []string) {
	inCell := p.conf.Cell != ""
	if !inCell && len(p.conf.Join)+len(remembered) == 0 {
		p.awaitCompany(ctx)
		return
	}
	delay := joinRetryMin
	looks := 0           // since there is company
	var targets []string // a cell has none: whom it joins by is anybody
	for {
		if !inCell {
			targets = p.targets(ctx)
		}
		switch {
		case p.standing(targets) == alone:
			p.joinSomebody(ctx, remembered, delay)
			looks = 0
		case !inCell:
			p.joinAbsent(ctx, targets)
		case looks <= looksAgain:
			p.compare()
		}
		if ctx.Err() != nil {
			return
		}
		wait := rejoinEvery
		now := p.standing(targets)
		switch now {
		case alone:
			wait, delay = delay, min(2*delay, joinRetryMax)
		case cutOff: // for good where members are joined at other addresses than they announce
			wait, delay = delay, min(2*delay, rejoinEvery)
		case joined:
			delay = joinRetryMin
		}
		if now != alone {
			p.markJoined()
			if inCell && looks < looksAgain {
				wait = lookAgain << (2 * looks)
			}
			looks++
		}
		if !p.sleep(ctx, wait, targets) {
			return
		}
	}
}

// joinSomebody tries seeds, then one of the remembered members: also after seeds that
// answer, for seeds that have all started anew do not know the others any more, whom nothing
// tells to join again.
func (p *Pool) joinSomebody(ctx context.Context, remembered []string, delay time.Duration) {
	seeds := p.seeded()
	var n int
	var err error
	if p.conf.Cell != "" {
		n, err = p.rejoin(ctx, seeds)
	} else {
		n, err = p.join(ctx, seeds)
	}
	if n > 0 {
		p.markJoined() // what follows may take long
	}
	if absent := p.absent(remembered); len(absent) > 0 && (n == 0 || p.conf.Cell == "") {
		var more int
		more, err = p.rejoin(ctx, absent)
		n += more
	}
	switch {
	case ctx.Err() != nil:
	case n > 0:
		p.logger.Info("joined the gossip", "contacted", n, "region", p.conf.Node.Region, "cell", p.conf.Cell)
	case err != nil:
		p.logger.Warn("cannot join the gossip yet; check the addresses, the gossip key and the region",
			"join", seeds, "remembered", len(remembered), "retry_in", delay, "error", err)
	}
}

// targets returns the configured addresses, without this process's own.
func (p *Pool) targets(ctx context.Context) []string {
	all, err := p.resolve(ctx, p.conf.Join)
	if err != nil {
		p.logger.Debug("join address", "error", err)
	}
	return slices.DeleteFunc(all, func(a string) bool { return a == p.addr })
}

// absent returns those of targets that are no live member.
func (p *Pool) absent(targets []string) []string {
	alive := map[string]bool{}
	for _, m := range p.serf.Members() {
		if stateOf(m.Status) == StateAlive {
			alive[net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(targets), func(a string) bool { return alive[a] })
}

func (p *Pool) standing(targets []string) standing {
	switch {
	case !p.hasCompany():
		return alone
	case len(targets) > 0 && len(p.absent(targets)) == len(targets):
		return cutOff
	}
	return joined
}

// joinAbsent tries those of targets that are no live member.
func (p *Pool) joinAbsent(ctx context.Context, targets []string) {
	absent := p.absent(targets)
	if len(absent) == 0 || ctx.Err() != nil {
		return
	}
	if n, err := p.serf.Join(absent, true); n > 0 {
		p.logger.Info("found members again", "contacted", n)
	} else if err != nil {
		p.logger.Debug("join address is no live member", "error", err)
	}
}

// compare exchanges lists of members with one of those that are known, by chance. What the pool
// has been told of late comes along.
func (p *Pool) compare() {
	peers, _ := p.choosePeers(nil)
	if len(peers) == 0 {
		return
	}
	if _, err := p.serf.Memberlist().Join(peers[:1]); err != nil {
		p.logger.Debug("a member does not compare lists", "peer", peers[0], "error", err)
	}
}

// awaitCompany closes joined for a pool that others join.
func (p *Pool) awaitCompany(ctx context.Context) {
	for {
		changed := p.Changed()
		if p.hasCompany() {
			p.markJoined()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Pool) markJoined() {
	select {
	case <-p.joined:
	default:
		close(p.joined)
	}
}

func (p *Pool) hasCompany() bool {
	for _, m := range p.serf.Members() {
		if m.Name != p.conf.Node.Name && stateOf(m.Status) == StateAlive {
			return true
		}
	}
	return false
}

// sleep waits for about d, or less when the standing changes: when company comes, or all
// of it goes. It returns false when the pool closes.
func (p *Pool) sleep(ctx context.Context, d time.Duration, targets []string) bool {
	before := p.standing(targets)
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	for {
		changed := p.Changed()
		if p.standing(targets) != before {
			return ctx.Err() == nil
		}
		select {
		case <-timer.C:
			return true
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
