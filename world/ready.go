package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// The start of a world is bounded by readyWithin, and readyEach more for each process.
const (
	readyWithin = 60 * time.Second
	readyEach   = 500 * time.Millisecond
)

// Ready waits until each region has a leader that sees all its members, and returns a
// client for each region's first server.
func (w *World) Ready(ctx context.Context) (map[string]*client.Client, error) {
	within := readyWithin + time.Duration(len(w.Procs))*readyEach
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	clients := map[string]*client.Client{}
	want := map[string]int{}
	for _, p := range w.Procs {
		want[p.Region]++
	}
	for _, s := range w.WithRole(starling.RoleServer) {
		c, err := s.Client()
		if err != nil {
			return nil, err
		}
		if clients[s.Region] == nil {
			clients[s.Region] = c
		}
		for {
			nodes, err := c.Nodes(ctx)
			seen := countAlive(nodes)
			if w.Told != nil {
				w.Told(s.Name, seen, want[s.Region])
			}
			if err == nil && seen == want[s.Region] && w.seesRegions(ctx, c, len(want)) {
				break
			}
			if err := w.Crashed(); err != nil {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("%s is not ready after %s: %s; the end of its log:\n%s", s.Name, within, w.unseen(s.Region, nodes, err), s.Tail())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return clients, nil
}

// unseen says what of a region's processes a server does not see.
func (w *World) unseen(region string, nodes []starling.NodeStatus, err error) string {
	if err != nil {
		return err.Error()
	}
	var missing []string
	for _, p := range w.Procs {
		if p.Region == region && !slices.ContainsFunc(nodes, func(n starling.NodeStatus) bool { return n.Name == p.Name && n.Alive }) {
			missing = append(missing, p.Name)
		}
	}
	if len(missing) == 0 {
		return "it sees all its members, but not all regions"
	}
	return "it does not see " + strings.Join(missing, ", ")
}

func countAlive(nodes []starling.NodeStatus) int {
	n := 0
	for i := range nodes {
		if nodes[i].Alive {
			n++
		}
	}
	return n
}

func (w *World) seesRegions(ctx context.Context, c *client.Client, want int) bool {
	regions, err := c.Regions(ctx)
	if err != nil {
		return false
	}
	seen := 0
	for _, r := range regions {
		if r.Seen || r.Local {
			seen++
		}
	}
	return seen == want
}

// Crashed returns an error with the log's end if a process has ended by itself.
func (w *World) Crashed() error {
	for _, p := range w.Procs {
		p.mu.Lock()
		cmd, exited := p.cmd, p.exited
		p.mu.Unlock()
		if cmd == nil {
			continue
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended: %s; the end of its log:\n%s", p.Name, cmd.ProcessState, p.Tail())
		default:
		}
	}
	return nil
}
