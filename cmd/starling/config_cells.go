package main

import (
	"net"
	"strconv"

	"github.com/starlingdeploy/starling"
)

// CellsBlock bounds the cells that the region's machines are divided into. All servers of a
// region have the same.
type CellsBlock struct {
	Max int `hcl:"max,optional"` // machines of a cell before it is split; 0: starling.MaxCellMachines
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
