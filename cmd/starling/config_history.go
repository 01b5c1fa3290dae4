package main

import (
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
)

// HistoryBlock says how much of the past a region keeps.
type HistoryBlock struct {
	Keep   int    `hcl:"keep,optional"`    // ended deployments of this region's apps; default 100000
	MaxAge string `hcl:"max_age,optional"` // of those in the archive, e.g. 8760h; default: no bound
}

// history returns the settings for control, which has the defaults and the bounds.
func (c *Config) history() (control.History, error) {
	b := c.Server.History
	if b == nil {
		return control.History{}, nil
	}
	h := control.History{Keep: b.Keep}
	if b.MaxAge != "" {
		d, err := time.ParseDuration(b.MaxAge)
		if err != nil || d <= 0 {
			return h, starling.Invalidf("server.history.max_age", "%q: want a time like 2160h", b.MaxAge)
		}
		h.MaxAge = d
	}
	return h, h.Check()
}
