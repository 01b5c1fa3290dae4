package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// finish fills defaults and refuses what cannot work.
func (c *Config) finish() error {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name: %w", err)
		}
		c.Name = strings.ToLower(strings.SplitN(host, ".", 2)[0])
	}
	if c.Bind == "" {
		c.Bind = "127.0.0.1"
	}
	for _, check := range []error{
		starling.CheckName("name", c.Name), starling.CheckName("region", c.Region),
		c.checkRoles(), c.checkAddresses(), c.checkIdentity(),
	} {
		if check != nil {
			return check
		}
	}
	if c.DataDir == "" {
		return starling.Invalidf("data_dir", "is not set: name a directory that survives a restart (--data-dir)")
	}
	return nil
}

func (c *Config) checkRoles() error {
	if len(c.roles()) == 0 {
		return starling.Invalidf("roles", "none is enabled: choose among --server, --cache, --worker and --machine, or --dev for all")
	}
	if c.isServer() {
		switch c.Server.BootstrapExpect {
		case 0, 1, 3, 5:
		default:
			return starling.Invalidf("server.bootstrap_expect", "%d: use 1, 3 or 5 (or 0 to join a cluster that exists)", c.Server.BootstrapExpect)
		}
		if c.Server.Replicas == 0 {
			c.Server.Replicas = defaultReplicas
		}
		if _, err := c.takeoverAfter(); err != nil {
			return err
		}
		if _, err := c.autopilot(); err != nil {
			return err
		}
		if _, err := c.diskReserve(); err != nil {
			return err
		}
		if _, err := c.history(); err != nil {
			return err
		}
		if _, err := c.cellMax(); err != nil {
			return err
		}
		if _, err := c.cellQuiet(); err != nil {
			return err
		}
	}
	if c.Worker != nil && c.Worker.Slots == 0 {
		c.Worker.Slots = 1
	}
	if c.Cache != nil && c.Cache.MaxBytes == "" {
		c.Cache.MaxBytes = "100GiB"
	}
	if c.Cache != nil {
		if _, err := parseRate("cache.egress", c.Cache.Egress); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of takeover_after: half of it must be long beside the seconds that an election
// within a region takes.
const (
	minTakeoverAfter = 10 * time.Second
	maxTakeoverAfter = time.Hour
)

// takeoverAfter reads the server's takeover_after; 0: off.
func (c *Config) takeoverAfter() (time.Duration, error) {
	text := c.Server.TakeoverAfter
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d != 0 && (d < minTakeoverAfter || d > maxTakeoverAfter) {
		return 0, starling.Invalidf("server.takeover_after", "%q: want a time within %s and %s, or none", text, minTakeoverAfter, maxTakeoverAfter)
	}
	if d > 0 && len(c.Regions) < 2 {
		return 0, starling.Invalidf("server.takeover_after", "needs three regions at least: name the others in regions")
	}
	return d, nil
}

func (c *Config) checkAddresses() error {
	if net.ParseIP(c.Bind) == nil {
		return starling.Invalidf("bind", "%q is not an IP address", c.Bind)
	}
	if c.Advertise == "" {
		c.Advertise = c.Bind
	}
	if ip := net.ParseIP(c.Advertise); ip == nil || ip.IsUnspecified() {
		return starling.Invalidf("advertise", "%q: others need one IP address to reach this process (--advertise)", c.Advertise)
	}
	for _, a := range c.Servers {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return starling.Invalidf("servers", "%q: want host:port of a server's QUIC, e.g. 10.0.0.2:%d", a, defaultQUICPort)
		}
	}
	bind := net.ParseIP(c.httpBind())
	if bind == nil {
		return starling.Invalidf("http.bind", "%q is not an IP address", c.httpBind())
	}
	open := c.HTTP != nil && (!orTrue(c.HTTP.TLS) || !orTrue(c.HTTP.ACL))
	if open && !bind.IsLoopback() {
		return starling.Invalidf("http", "plain HTTP or no tokens is for loopback only, and bind is %s: set http.bind", bind)
	}
	return nil
}

func (c *Config) checkIdentity() error {
	if err := c.checkEnrolment(); err != nil {
		return err
	}
	if c.enrols() {
		return nil
	}
	if c.TLS == nil {
		return starling.Invalidf("tls", "every process needs a certificate: see `starling tls ca create` and `starling tls cert create`, or use --dev")
	}
	if c.Gossip == nil && c.isOnlyMachine() {
		return nil // it is given its cell's
	}
	if c.Gossip == nil || (c.Gossip.Key == "") == (c.Gossip.KeyFile == "") {
		return starling.Invalidf("gossip", "set key or key_file, made by `starling operator gossip keyring generate`")
	}
	return nil
}
