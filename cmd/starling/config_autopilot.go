package main

import (
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
)

// AutopilotBlock says when servers get their vote and lose it.
type AutopilotBlock struct {
	CleanupDeadServers *bool  `hcl:"cleanup_dead_servers,optional"`      // default true
	DeadAfter          string `hcl:"dead_after,optional"`                // unseen for so long; default 1h
	MinQuorum          int    `hcl:"min_quorum,optional"`                // voters that a removal leaves; default 3
	Stabilization      string `hcl:"server_stabilization_time,optional"` // healthy before it votes; default 10s
}

// autopilot returns the settings for raftnode, which has the defaults.
func (c *Config) autopilot() (raftnode.Autopilot, error) {
	b := c.Server.Autopilot
	if b == nil {
		return raftnode.Autopilot{}, nil
	}
	a := raftnode.Autopilot{KeepDeadServers: !orTrue(b.CleanupDeadServers), MinQuorum: b.MinQuorum}
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{{"dead_after", b.DeadAfter, &a.DeadAfter}, {"server_stabilization_time", b.Stabilization, &a.Stabilization}} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil || d <= 0 {
			return a, starling.Invalidf("server.autopilot."+f.name, "%q: want a time like 90s or 24h", f.text)
		}
		*f.to = d
	}
	if b.MinQuorum < 0 {
		return a, starling.Invalidf("server.autopilot.min_quorum", "%d is negative", b.MinQuorum)
	}
	return a, nil
}
