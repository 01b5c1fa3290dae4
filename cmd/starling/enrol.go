package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// enrols reports whether this process gets its certificate by enrolling.
func (c *Config) enrols() bool { return c.TLS == nil && c.isOnlyMachine() }

func (c *Config) checkEnrolment() error {
	token := c.JoinToken != "" || c.JoinTokenFile != ""
	switch {
	case c.JoinToken != "" && c.JoinTokenFile != "":
		return starling.Invalidf("join_token", "is given beside join_token_file: leave out one of them")
	case token && !c.isOnlyMachine():
		return starling.Invalidf("join_token", "makes machines only, and this process is %v: make its certificate with `starling tls cert create`", c.roles())
	case token && c.TLS != nil:
		return starling.Invalidf("join_token", "is for machines without a certificate, and tls names one: leave out one of them")
	case c.enrols() && len(c.firstServers()) == 0:
		return starling.Invalidf("servers", "a machine that enrols needs the QUIC address of a server or more, e.g. [\"10.0.0.2:%d\"]", defaultQUICPort)
	}
	if c.TLS != nil && (c.TLS.EnrolCert == "") != (c.TLS.EnrolKey == "") {
		return starling.Invalidf("tls.enrol_cert", "goes with enrol_key: `starling tls ca enrol` makes both")
	}
	if _, err := c.machineTTL(); err != nil {
		return err
	}
	if c.isServer() && c.Server.EnrolPerSecond < 0 {
		return starling.Invalidf("server.enrol_per_second", "%d is negative", c.Server.EnrolPerSecond)
	}
	return nil
}

// machineTTL is how long the certificates are valid that a server signs; 0: the default.
func (c *Config) machineTTL() (time.Duration, error) {
	if c.TLS == nil || c.TLS.MachineTTL == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.TLS.MachineTTL)
	if err != nil || d < pki.MinMachineTTL {
		return 0, starling.Invalidf("tls.machine_ttl", "%q: want a time like 168h, %s at least", c.TLS.MachineTTL, pki.MinMachineTTL)
	}
	return d, nil
}

func (c *Config) joinToken() (string, error) {
	if c.JoinTokenFile == "" {
		return strings.TrimSpace(c.JoinToken), nil
	}
	b, err := os.ReadFile(c.JoinTokenFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // it is of use for the first start only
	}
	if err != nil {
		return "", fmt.Errorf("join_token_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// becomeMachine gets this process the certificate of a machine, from disk or by enrolling, and points
// its configuration there. It returns with what the certificate is renewed; nil: it is
// not of the kind that enrols.
func becomeMachine(ctx context.Context, cfg *Config, log *slog.Logger) (*enrol.Config, error) {
	if !cfg.enrols() {
		return nil, nil
	}
	token, err := cfg.joinToken()
	if err != nil {
		return nil, err
	}
	e := &enrol.Config{
		Dir: cfg.DataDir, Region: cfg.Region, Token: token, Servers: cfg.firstServers, Logger: log.With("part", "enrol"),
		Machine: rpc.RegisterRequest{Name: cfg.Name, Zone: cfg.Zone, Rack: cfg.Rack, Tags: cfg.Machine.Tags, Gossip: cfg.announcedGossip()},
		Dial:    dialEnrolment(cfg.Bind),
	}
	if _, err := e.Credentials(ctx); err != nil {
		return nil, refusal(err)
	}
	cfg.TLS = &TLSBlock{
		CA: filepath.Join(cfg.DataDir, enrol.CAFile), Cert: filepath.Join(cfg.DataDir, enrol.CertFile), Key: filepath.Join(cfg.DataDir, enrol.KeyFile),
	}
	return e, nil
}

// announcedGossip is where this machine is to be found in its cell; empty while its port is not
// known, which registering tells later.
func (c *Config) announcedGossip() string {
	_, port, err := net.SplitHostPort(c.cellGossip())
	if err != nil || port == "0" {
		return ""
	}
	return net.JoinHostPort(c.Advertise, port)
}

// dialEnrolment opens a socket for each attempt: there are few, and years apart.
func dialEnrolment(bind string) enrol.Dial {
	return func(ctx context.Context, addr string, cas []starling.Digest) (enrol.Stream, error) {
		d, err := transport.NewEnrolDialer(bind, nil)
		if err != nil {
			return nil, err
		}
		c, err := d.Dial(ctx, addr, cas)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		return ownDialer{c, d}, nil
	}
}

// ownDialer closes the socket with the stream.
type ownDialer struct {
	*transport.EnrolConn
	dialer *transport.EnrolDialer
}

func (o ownDialer) Close() error { return errors.Join(o.EnrolConn.Close(), o.dialer.Close()) }

// refusal gives an error of enrolment its exit code.
func refusal(err error) error {
	code := 0
	switch {
	case errors.Is(err, starling.ErrClock):
		code = exitClock
	case errors.Is(err, starling.ErrConflict):
		code = exitTaken
	case errors.Is(err, starling.ErrForbidden):
		code = exitRefused
	default:
		return fmt.Errorf("enrol: %w", err)
	}
	return &exitError{code, "this machine is not let in: " + err.Error()}
}

// renewCertificate keeps the endpoint's certificate fresh. What was made with the one at the start goes on
// with it: it judges others as well as the new one does.
func (p *process) renewCertificate(ctx context.Context, e *enrol.Config) error {
	have, err := e.Credentials(ctx)
	if err != nil {
		return refusal(err)
	}
	e.Servers = p.ownServers
	return e.Renew(ctx, have, p.servers, func(c *pki.Credentials) { p.endpoint.SetCredentials(c.WithRevocations(p.revoked)) })
}

// revoke makes this process refuse machines, those that are connected as well.
func (p *process) revoke(names []string) {
	p.revoked.Set(names)
	p.endpoint.ExpelRevoked()
}

// enrolment is with what a server lets machines in; nil: it does not.
func (p *process) enrolment() (*control.Enrolment, error) {
	t := p.cfg.TLS
	if t.EnrolCert == "" {
		return nil, nil
	}
	e, err := pki.LoadEnrollerFiles(p.credentials, t.EnrolCert, t.EnrolKey)
	if err != nil {
		return nil, fmt.Errorf("tls.enrol_cert: %w", err)
	}
	ca, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	ttl, err := p.cfg.machineTTL()
	if err != nil {
		return nil, err
	}
	return &control.Enrolment{Sign: e.Sign, CA: ca, TTL: ttl}, nil
}
