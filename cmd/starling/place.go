package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/membership"
	"github.com/starlingdeploy/starling/rpc"
)

// Pace of registering.
const (
	registerWithin     = 30 * time.Second // servers may wait for two thirds of it, for a machine that has moved
	registerBackoffMin = 250 * time.Millisecond
	registerBackoffMax = 30 * time.Second
	regionRetry        = 20 * time.Second // to ask servers of the version before again
	aloneRetry         = 30 * time.Second // of a machine that finds nobody of its cell
	companyWithin      = 10 * time.Second // members of the cell before are kept for so long
	maxPortTries       = 20               // for one that is free for TCP and UDP
)

// place keeps a machine in its cell. While the servers are of the version before, it is in
// the region's pool instead. Its goroutine, run, owns it.
type place struct {
	p      *process
	log    *slog.Logger
	node   starling.Node // what it announces in its cell
	gossip string        // host:port in the cell, as registered
	guide  *guide
	member *cell.Member
	moved  chan struct{} // room for one: it is to register again

	ticket      rpc.Ticket       // no Cell: none yet
	registered  bool             // since the start
	cell        *membership.Pool // nil: none yet
	following   func()           // ends what follows the cell's pool, and waits for it
	leaveRegion func() error     // nil: not in the region's pool as a machine
	owned       sync.WaitGroup   // what follows the region's pool
}

func (p *process) newPlace() (*place, error) {
	bind := p.cfg.cellGossip()
	_, port, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("gossip of the cell: %w", err)
	}
	if port == "0" { // servers are told the port before there is a pool
		if port, err = anyPort(p.cfg.Bind); err != nil {
			return nil, err
		}
	}
	pl := &place{
		p: p, log: p.log.With("part", "place"), node: p.node(starling.RoleMachine), gossip: net.JoinHostPort(p.cfg.Advertise, port),
		guide: newGuide(), moved: make(chan struct{}, 1),
	}
	pl.node.HTTP = "" // of another role
	t, err := readTicket(p.cfg.DataDir)
	switch {
	case err == nil && t.Region != p.cfg.Region:
		pl.log.Warn("the kept place is in another region, and is passed over", "region", t.Region)
	case err == nil:
		pl.ticket = t
		pl.node.Tags = t.Tags // its join token's too
	case !errors.Is(err, fs.ErrNotExist):
		pl.log.Warn("the kept place in the region is of no use", "error", err)
	}
	pl.member, err = p.newMember(pl.node, pl.move)
	return pl, err
}

// move has this machine register again, as its cell wants.
func (pl *place) move() {
	select {
	case pl.moved <- struct{}{}:
	default:
	}
}

// anyPort returns a port that nobody uses just now, for TCP and UDP.
func anyPort(host string) (string, error) {
	var errs []error
	for range maxPortTries {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return "", fmt.Errorf("a free port for gossip: %w", err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return "", errors.Join(err, l.Close())
		}
		u, err := net.ListenPacket("udp", net.JoinHostPort(host, port))
		if err == nil {
			return port, errors.Join(u.Close(), l.Close())
		}
		errs = append(errs, err, l.Close())
	}
	return "", fmt.Errorf("a free port for gossip: %w", errors.Join(errs...))
}

// run enters the cell that is kept on disk, registers, and registers again whenever the
// machine is told to move or finds itself alone. It returns when ctx ends, or with the
// reason for which this machine must not go on.
func (pl *place) run(ctx context.Context) (err error) {
	defer func() { pl.close(errors.Is(err, starling.ErrConflict)) }()
	if t := pl.ticket; t.Cell != "" {
		if err := pl.enter(ctx, t, false); err != nil {
			return err
		}
	}
	var wait, backoff time.Duration
	for {
		if err := pl.pause(ctx, wait); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		t, err := pl.register(ctx)
		switch {
		case err == nil:
			if err := pl.enter(ctx, t, true); err != nil {
				return err
			}
			pl.registered = true
			backoff, wait = 0, pl.nextLook()
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, starling.ErrNotFound):
			if err := pl.enterRegion(ctx); err != nil {
				return err
			}
			backoff, wait = 0, regionRetry/2+rand.N(regionRetry)
			continue
		case errors.Is(err, starling.ErrConflict): // the servers have waited for the other one to be gone
			return fmt.Errorf("this machine has no place in region %s: %w", pl.p.cfg.Region, err)
		}
		if len(pl.p.cfg.Servers) == 0 { // its file is of the version before: gossip knows where they are
			if err := pl.enterRegion(ctx); err != nil {
				return err
			}
		}
		if backoff == 0 {
			pl.log.Warn("cannot register with the region's servers yet", "error", err)
		}
		backoff = min(max(2*backoff, registerBackoffMin), registerBackoffMax)
		wait = backoff/2 + rand.N(backoff) // so that a fleet does not ask in step
	}
}

// close leaves the gossip. copied: another machine of this name is there, and must not be taken for gone with this one.
func (pl *place) close(copied bool) {
	pl.leave(copied)
	if pl.leaveRegion != nil {
		if err := pl.leaveRegion(); err != nil {
			pl.log.Warn("leave the region's gossip", "error", err)
		}
	}
	pl.owned.Wait()
}

// pause waits until it is time to register: for wait, and then for as long as this machine
// has company in its cell; or until it is told to move. Its error is the reason for which this machine
// must not go on.
func (pl *place) pause(ctx context.Context, wait time.Duration) error {
	var failed <-chan struct{}
	if pl.cell != nil {
		failed = pl.cell.Failed()
	}
	for {
		select {
		case <-time.After(wait):
			if pl.cell == nil || !pl.registered || pl.alone() {
				return nil
			}
			wait = pl.nextLook()
		case <-pl.moved:
			return nil
		case <-failed:
			return pl.cell.Err()
		case <-ctx.Done():
			return nil
		}
	}
}

// nextLook returns after which time to see whether this machine is alone.
func (pl *place) nextLook() time.Duration { return aloneRetry/2 + rand.N(aloneRetry) }

func (pl *place) register(ctx context.Context) (rpc.Ticket, error) {
	ctx, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	cfg := pl.p.cfg
	return pl.p.servers.Register(ctx, rpc.RegisterRequest{
		Name: cfg.Name, Zone: cfg.Zone, Rack: cfg.Rack, Tags: cfg.Machine.Tags, Gossip: pl.gossip,
	})
}

// openCell starts gossip in the cell of a ticket.
func (pl *place) openCell(t rpc.Ticket, fresh bool) (*membership.Pool, error) {
	p := pl.p
	if err := forgetCells(p.cfg.DataDir, t.Cell); err != nil {
		return nil, fmt.Errorf("forget former cells: %w", err)
	}
	_, port, err := net.SplitHostPort(pl.gossip)
	if err != nil {
		return nil, fmt.Errorf("gossip of the cell: %w", err)
	}
	dir := cellDir(p.cfg.DataDir, t.Cell)
	pool, err := membership.Start(membership.Config{
		Cluster: p.credentials.Identity.Cluster, Cell: t.Cell, Node: pl.node,
		Bind: net.JoinHostPort(p.cfg.Bind, port), Advertise: p.cfg.Advertise,
		Key: t.Key, Plaintext: len(t.Key) == 0, KeyringFile: filepath.Join(dir, "keyring.json"), Join: t.Seeds,
		PeersFile: filepath.Join(dir, "peers.json"), Logger: p.log.With("part", "gossip", "cell", t.Cell),
	})
	if err == nil && fresh && len(t.Key) > 0 { // it goes before what the keyring holds
		if err = pool.SetKey(t.Key); err != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	return pool, err
}

// enter takes up a ticket: it opens the pool of its cell, after leaving the one before. A
// fresh one is of now, and not from disk.
func (pl *place) enter(ctx context.Context, t rpc.Ticket, fresh bool) error {
	if pl.cell != nil && pl.ticket.Cell == t.Cell {
		return pl.renew(t)
	}
	before := pl.leave(false)
	if pl.leaveRegion != nil {
		if err := pl.leaveRegion(); err != nil {
			pl.log.Warn("leave the region's gossip", "error", err)
		}
		pl.leaveRegion = nil
	}
	pool, err := pl.openCell(t, fresh)
	if err != nil {
		return fmt.Errorf("enter cell %s: %w", t.Cell, err)
	}
	following, stop := context.WithCancel(ctx)
	var owned sync.WaitGroup
	pl.cell, pl.following = pool, func() { stop(); owned.Wait() }
	around := pl.p.around
	around.edit(func() { around.cell, around.before = pool, before })
	owned.Go(func() { around.follow(following, pool) })
	owned.Go(func() {
		if len(t.Seeds) > 0 {
			select {
			case <-pool.Joined(): // before that it would take itself for the cell's speaker
			case <-time.After(companyWithin):
			case <-following.Done():
				return
			}
		}
		around.edit(func() { around.before = nil })
		pl.member.Enter(pl.as(t), pool)
		pl.guide.follow(pl.member)
	})
	pl.log.Info("in a cell", "cell", t.Cell, "slot", t.Slot, "gossip", pool.Addr())
	return pl.keep(t)
}

// as is what the member is told of a ticket.
func (pl *place) as(t rpc.Ticket) cell.Place {
	servers := slices.Clone(t.Servers)
	for _, a := range pl.p.ownServers() {
		if !slices.Contains(servers, a) {
			servers = append(servers, a)
		}
	}
	return cell.Place{Cell: t.Cell, Version: t.Version, KeyEpoch: t.KeyEpoch, Gossip: pl.gossip, Servers: servers}
}

// renew takes a ticket of the cell that this machine is in.
func (pl *place) renew(t rpc.Ticket) error {
	pl.cell.Seed(t.Seeds)
	if t.KeyEpoch != pl.ticket.KeyEpoch && len(t.Key) > 0 && pl.alone() {
		if err := pl.cell.SetKey(t.Key); err != nil {
			return err
		}
	}
	pl.member.Enter(pl.as(t), pl.cell)
	return pl.keep(t)
}

func (pl *place) keep(t rpc.Ticket) error {
	pl.ticket = t
	return writeTicket(pl.p.cfg.DataDir, t)
}

// alone reports whether no other member of the cell is known to live.
func (pl *place) alone() bool {
	alive := 0
	for _, n := range pl.cell.Members() {
		if n.Alive {
			alive++
		}
	}
	return alive <= 1
}

// leave closes the cell's pool, without a word if silently, and returns the machines that were in it.
func (pl *place) leave(silently bool) []starling.Node {
	if pl.cell == nil {
		return nil
	}
	before := pl.cell.Members()
	pl.following()
	around := pl.p.around
	around.edit(func() { around.cell, around.before = nil, before })
	var left error
	if !silently {
		left = pl.cell.Leave()
	}
	if err := errors.Join(left, pl.cell.Close()); err != nil {
		pl.log.Warn("leave the cell", "cell", pl.ticket.Cell, "error", err)
	}
	pl.cell = nil
	return before
}

// enterRegion takes part in the region's pool, for servers that know no cells.
func (pl *place) enterRegion(ctx context.Context) error {
	p := pl.p
	if p.cfg.Gossip == nil || pl.cell != nil || pl.leaveRegion != nil {
		return nil
	}
	pl.log.Info("this machine takes part in the region's gossip: it is in no cell yet")
	pl.guide.follow(p.servers)
	if !p.cfg.isOnlyMachine() {
		pl.leaveRegion = func() error { return p.pool.SetRoles(p.ownRoles()) }
		return p.pool.SetRoles(p.cfg.roles())
	}
	pool, err := p.openRegion(p.cfg.roles()...)
	if err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	p.around.edit(func() { p.around.region = pool })
	pl.owned.Go(func() { p.around.follow(following, pool) })
	pl.leaveRegion = func() error {
		stop()
		p.around.edit(func() { p.around.region = nil })
		return errors.Join(pool.Leave(), pool.Close())
	}
	return nil
}
