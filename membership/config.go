package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/starlingdeploy/starling"
)

// DefaultPort is the gossip port of addresses that name none.
const DefaultPort = 7472

// Bounds and timing.
const (
	maxEventQueue      = 1024                  // Serf events between two turns of the loop
	maxGossipQueue     = 4096                  // messages that wait to be gossiped, at least
	maxJoinAddrs       = 64                    // addresses in Config.Join
	changeCoalesce     = 20 * time.Millisecond // one signal for events that come together
	joinRetryMin       = 500 * time.Millisecond
	joinRetryMax       = 30 * time.Second
	rejoinEvery        = time.Minute     // look at Join addresses that are not alive members
	lookAgain          = 2 * time.Second // from when a cell's member has company until it compares lists with one
	looksAgain         = 3               // times, each after four times the pause before
	maxBindTries       = 10              // for port 0: UDP and TCP must both be free
	maxLogLineBytes    = 2048
	maxResolve         = 5 * time.Second
	resolvedAddrsBound = 16 // addresses taken from one DNS name
)

// Config says how to take part in a pool: a region's, or that of one of its cells.
type Config struct {
	Cluster string        // members of another cluster are refused
	Cell    string        // the cell whose pool it is; empty: the region's
	Node    starling.Node // what this process announces; Alive is ignored
	Bind    string        // ip:port, UDP and TCP; port 0 takes a free one
	// Advertise is the host or host:port that others reach this process at. Empty: the
	// bound address, or a private address of this computer if Bind is 0.0.0.0.
	Advertise string
	// Key encrypts gossip: 16, 24 or 32 bytes (AES-128, -192, -256). It is required unless
	// Plaintext is set. A keyring in KeyringFile goes before it.
	Key         []byte
	Plaintext   bool
	KeyringFile string   // keeps rotated keys over a restart; empty: memory only
	Join        []string // gossip addresses, host or host:port, tried until one answers
	// PeersFile keeps addresses of live members, so that a restarted process rejoins by
	// itself; empty: it relies on Join.
	PeersFile string
	Profile   Profile // empty: ProfileCell in a cell, else ProfileRegion
	Logger    *slog.Logger
}

func (c *Config) check() error {
	if err := starling.CheckName("cluster", c.Cluster); err != nil {
		return err
	}
	if err := starling.CheckName("name", c.Node.Name); err != nil {
		return err
	}
	if err := starling.CheckName("region", c.Node.Region); err != nil {
		return err
	}
	if c.Logger == nil {
		return errors.New("membership: Config.Logger is nil")
	}
	if len(c.Join) > maxJoinAddrs {
		return starling.Invalidf("join", "%d addresses, more than %d", len(c.Join), maxJoinAddrs)
	}
	if c.Plaintext && len(c.Key) > 0 {
		return starling.Invalidf("gossip_key", "is set although gossip is to be plain text")
	}
	if !c.Plaintext && len(c.Key) == 0 && c.KeyringFile == "" {
		return starling.Invalidf("gossip_key", "is missing: gossip is encrypted with a key of 16, 24 or 32 bytes")
	}
	if len(c.Key) > 0 {
		if err := memberlist.ValidateKey(c.Key); err != nil {
			return starling.Invalidf("gossip_key", "has %d bytes: use 16, 24 or 32", len(c.Key))
		}
	}
	if c.Cell != "" {
		if err := starling.CheckName("cell", c.Cell); err != nil {
			return err
		}
		if c.Profile == "" {
			c.Profile = ProfileCell
		}
	}
	return c.Profile.check()
}

// serfConfig returns the configuration that does not depend on sockets, keys or tags.
func (c *Config) serfConfig() *serf.Config {
	conf := serf.DefaultConfig()
	conf.NodeName = c.Node.Name
	conf.ValidateNodeNames = true
	// Serf's resolution ends a member that gets no answer, the elder of two as well, when
	// packets are lost. Ours is in conflict.go.
	conf.EnableNameConflictResolution = false
	conf.DisableCoordinates = true
	conf.MsgpackUseNewTimeFormat = true
	conf.MinQueueDepth = maxGossipQueue
	conf.KeyringFile = c.KeyringFile
	c.Profile.apply(conf)
	return conf
}

// splitAddr reads "host", "host:port" or "[v6]:port".
func splitAddr(field, addr string, port int) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		if net.ParseIP(addr) == nil && strings.Contains(addr, ":") {
			return "", 0, starling.Invalidf(field, "%.100q: want host or host:port", addr)
		}
		return addr, port, nil
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, starling.Invalidf(field, "%.100q: the port is not a number within 0 and 65535", addr)
	}
	return host, int(n), nil
}

// resolveIP returns the first address of host.
func resolveIP(ctx context.Context, host string) (net.IP, error) {
	if ip := net.ParseIP(host); ip != nil {
		return ip, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxResolve)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %q: %w", host, err)
	}
	return ips[0], nil
}
