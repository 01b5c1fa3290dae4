package enrol

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

const renewWithin = 20 * time.Second // one try

// Renew keeps a machine's certificate fresh until ctx ends: at two thirds of its life, give or take a
// tenth, it gets another for the same key, keeps it, and hands it to use. While nobody answers it tries
// again, also after the certificate has expired: then it enrols again with its key. A machine that
// was revoked or removed goes on asking, more and more seldom, and runs what it runs.
func (c *Config) Renew(ctx context.Context, have *pki.Credentials, client *rpc.Client, use func(*pki.Credentials)) error {
	var pause backoff
	wait := untilRenewal(have, c.now())
	for told := false; ; {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		next, err := c.renew(ctx, have, client)
		if err == nil {
			c.Logger.Info("certificate renewed", "until", next.Leaf.NotAfter)
			have, told, pause = next, false, backoff{}
			use(next)
			wait = untilRenewal(have, c.now())
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !told {
			c.Logger.Warn("cannot renew the certificate yet, and goes on trying", "until", have.Leaf.NotAfter, "error", err)
			told = true
		}
		// So that some tries fit into what is left of a short life.
		wait = min(pause.after(err), max(pauseMin, life(have)/20))
		if verdict(err) {
			wait = pauseMax/2 + rand.N(pauseMax)
		}
	}
}

func life(c *pki.Credentials) time.Duration {
	return c.Leaf.NotAfter.Sub(c.Leaf.NotBefore.Add(pki.ClockSlack))
}

// untilRenewal is a moment near two thirds of a certificate's life, another for each machine.
func untilRenewal(c *pki.Credentials, now time.Time) time.Duration {
	all := life(c)
	if all <= 0 {
		return 0
	}
	at := c.Leaf.NotAfter.Add(-all / 3).Add(all/20 - rand.N(all/10+1))
	return max(0, at.Sub(now))
}

func (c *Config) renew(ctx context.Context, have *pki.Credentials, client *rpc.Client) (*pki.Credentials, error) {
	kept, err := Read(c.Dir)
	if err != nil {
		return nil, err
	}
	if kept == nil {
		return nil, fmt.Errorf("%s is gone from %s", KeyFile, c.Dir)
	}
	if have.Valid(c.now()) != nil {
		again := *c
		again.Token = "" // its key is known; a token may have been used up since
		r, err := again.request(kept.Key, kept.CA)
		if err != nil {
			return nil, err
		}
		res, err := again.round(ctx, r, new(backoff))
		if err != nil {
			return nil, err
		}
		return c.take(kept, res.CA, res.Cert)
	}
	csr, err := pki.NewCSR(kept.Key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	res, err := client.Renew(ctx, rpc.RenewRequest{CSR: csr})
	if err != nil {
		return nil, err
	}
	return c.take(kept, kept.CA, res.Cert)
}

// take keeps a new certificate, once it has been found to be one of this machine's.
func (c *Config) take(kept *Kept, caPEM, certPEM []byte) (*pki.Credentials, error) {
	next, err := pki.Load(caPEM, certPEM, kept.Key)
	if err == nil {
		err = next.Valid(c.now())
	}
	if err == nil && next.Identity.Name != c.Machine.Name {
		err = fmt.Errorf("%w: it is for %s", starling.ErrForbidden, next.Identity)
	}
	if err != nil {
		return nil, fmt.Errorf("the new certificate: %w", err)
	}
	return next, errors.Join(write(c.Dir, CAFile, caPEM), write(c.Dir, CertFile, certPEM))
}
