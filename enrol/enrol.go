package enrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

// maxServers is how many addresses are tried in turn.
const maxServers = 64

// Config says who enrols, and where.
type Config struct {
	Dir     string // data_dir, which exists
	Region  string
	Machine rpc.RegisterRequest
	Token   string          // as `starling node token create` prints it; empty: the kept key must do
	Servers func() []string // host:port of QUIC
	Dial    Dial
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger
}

func (c *Config) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// Credentials returns those of an enrolled machine, or enrols it. It tries all servers again and
// again until ctx ends, unless the region refuses it: that error wraps starling.ErrForbidden (see the
// token), ErrConflict (the name is taken), ErrClock, or is about bad input.
func (c *Config) Credentials(ctx context.Context) (*pki.Credentials, error) {
	kept, err := Read(c.Dir)
	if err != nil {
		return nil, err
	}
	have, err := kept.Credentials(c.Dir)
	if err != nil {
		return nil, err
	}
	if have != nil {
		if id := have.Identity; id.Name != c.Machine.Name || id.Region != c.Region {
			return nil, fmt.Errorf("%w: %s holds the identity of machine %s of region %s, and this one is to be %s of region %s: if the disk is a copy, delete data_dir and enrol it anew",
				starling.ErrConflict, c.Dir, id.Name, id.Region, c.Machine.Name, c.Region)
		}
		if c.now().Before(have.Leaf.NotAfter) {
			return have, have.Valid(c.now())
		}
		c.Logger.Warn("the certificate has expired while this machine was off: it enrols again with its key", "expired", have.Leaf.NotAfter)
	}
	if err := c.enrolAndKeep(ctx, kept); err != nil {
		if have != nil && c.Token == "" && errors.Is(err, starling.ErrForbidden) {
			err = fmt.Errorf("its certificate has expired, and it is not let in with its key: remove the machine (starling node remove %s), and give it a new join_token: %w", c.Machine.Name, err)
		}
		return nil, err
	}
	if kept, err = Read(c.Dir); err != nil {
		return nil, err
	}
	return kept.Credentials(c.Dir)
}

// enrolAndKeep keeps the key before any server hears of it: whatever is lost after that, it is the
// same machine which asks again.
func (c *Config) enrolAndKeep(ctx context.Context, kept *Kept) error {
	if (kept == nil || kept.CA == nil) && c.Token == "" {
		return starling.Invalidf("join_token", "this machine has no certificate: give it a join token (--join-token, join_token or join_token_file), made by `starling node token create`")
	}
	if kept == nil {
		keyPEM, err := pki.NewKey()
		if err != nil {
			return err
		}
		if err := write(c.Dir, KeyFile, keyPEM); err != nil {
			return err
		}
		kept = &Kept{Key: keyPEM}
	}
	res, err := c.Enrol(ctx, kept.Key, kept.CA)
	if err != nil {
		return err
	}
	return keep(c.Dir, res)
}

// Enrol asks for a certificate of a key until it gets one, the region refuses it (see Credentials), or
// ctx ends. Servers are known by the CA in the token and those in caPEM, which may be empty. It
// reads and writes nothing in Dir.
func (c *Config) Enrol(ctx context.Context, keyPEM, caPEM []byte) (*rpc.EnrolResponse, error) {
	r, err := c.request(keyPEM, caPEM)
	if err != nil {
		return nil, err
	}
	var pause backoff
	for told := false; ; {
		res, err := c.round(ctx, r, &pause)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil || verdict(err) {
			return nil, err
		}
		if !told {
			c.Logger.Warn("cannot enrol yet, and goes on trying", "error", err)
			told = true
		}
	}
}

// request is what is sent, but for its time, and whom to send it to.
type request struct {
	rpc.EnrolRequest
	cas []starling.Digest
}

func (c *Config) request(keyPEM, caPEM []byte) (*request, error) {
	r := &request{EnrolRequest: rpc.EnrolRequest{
		Token: c.Token, Name: c.Machine.Name, Zone: c.Machine.Zone, Rack: c.Machine.Rack, Tags: c.Machine.Tags, Gossip: c.Machine.Gossip,
	}}
	var err error
	if r.CSR, err = pki.NewCSR(keyPEM); err != nil {
		return nil, err
	}
	if c.Token != "" {
		text, err := starling.ParseJoinToken(c.Token)
		if err != nil {
			return nil, err
		}
		r.cas = append(r.cas, text.CA)
	}
	if len(caPEM) > 0 {
		known, err := pki.Fingerprints(caPEM)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", CAFile, err)
		}
		r.cas = append(r.cas, known...)
	}
	return r, nil
}

// round tries each server once, in random order, until one answers. The error of a round is a verdict if
// the region has refused the machine, or if no server at all would talk to it. It waits after each
// attempt that failed, but for the first one: that server may be the only one which is gone.
func (c *Config) round(ctx context.Context, r *request, pause *backoff) (*rpc.EnrolResponse, error) {
	servers := slices.Clone(c.Servers())
	if len(servers) == 0 {
		return nil, starling.Invalidf("servers", "there is none to enrol at: name some (QUIC addresses, e.g. 10.0.0.2:7471)")
	}
	rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	var turnedAway, other error
	for i, addr := range servers[:min(len(servers), maxServers)] {
		req := r.EnrolRequest
		req.At = c.now()
		res, refused, err := Once(ctx, c.Dial, addr, r.cas, c.Region, &req)
		switch {
		case err == nil:
			return &res, nil
		case refused && !errors.Is(err, starling.ErrClock) || ctx.Err() != nil:
			return nil, err
		case verdict(err): // that server's only: it may be of another cluster, or its clock be wrong
			turnedAway = err
			continue
		}
		other = fmt.Errorf("%s: %w", addr, err)
		var busy *starling.BusyError
		if i == 0 && len(servers) > 1 && !errors.As(err, &busy) { // where one is busy, the others are too
			continue
		}
		if err := sleep(ctx, pause.after(err)); err != nil {
			return nil, err
		}
	}
	if other != nil {
		return nil, other
	}
	return nil, turnedAway
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
