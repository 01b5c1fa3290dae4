package main

import (
	"net"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
)

// CellsBlock bounds the cells that the region's machines are divided into. All servers of a
// region have the same.
type CellsBlock struct {
	Max   int    `hcl:"max,optional"`   // machines of a cell before it is split; 0: starling.MaxCellMachines
	Quiet string `hcl:"quiet,optional"` // that a cell must have been as it is before it is split or merged; "": 1m
}

// cellMax is how many machines a cell has before it is split.
func (c *Config) cellMax() (int, error) {
	if c.Server.Cells == nil || c.Server.Cells.Max == 0 {
		return starling.MaxCellMachines, nil
	}
	if n := c.Server.Cells.Max; n >= minCellMax && n <= starling.MaxCellMachines {
		return n, nil
	}
	return 0, starling.Invalidf("server.cells.max", "%d is not within %d and %d", c.Server.Cells.Max, minCellMax, starling.MaxCellMachines)
}

// cellQuiet reads the server's cells.quiet; 0: the default.
func (c *Config) cellQuiet() (time.Duration, error) {
	if c.Server.Cells == nil || c.Server.Cells.Quiet == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Server.Cells.Quiet)
	if err != nil || d < minCellQuiet {
		return 0, starling.Invalidf("server.cells.quiet", "%q: want a time like 1m, %s at least", c.Server.Cells.Quiet, minCellQuiet)
	}
	return d, nil
}

// minCellQuiet lets the machines of a cell hear of one step before the next.
const minCellQuiet = time.Second

// minCellMax leaves halves of more than one machine.
const minCellMax = 3

// cellGossip returns bind:port of this machine's gossip in its cell.
func (c *Config) cellGossip() string {
	if c.isOnlyMachine() {
		return c.gossipAddr()
	}
	return c.listenOn(c.Bind, func(p *Ports) *int { return p.Cell }, defaultCellPort)
}

// firstServers are QUIC addresses of servers to begin with: those that are named or, failing
// that, the usual port of the hosts in join.
func (c *Config) firstServers() []string {
	if len(c.Servers) > 0 {
		return c.Servers
	}
	var out []string
	for _, a := range c.Join {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			host = a
		}
		out = append(out, net.JoinHostPort(host, strconv.Itoa(defaultQUICPort)))
	}
	return out
}
