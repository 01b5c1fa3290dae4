package control

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// maxCellsAsked bounds how many cells are asked for one page of nodes: what more machines
// run is not shown, but with a filter by cell.
const maxCellsAsked = 4

// fill adds what cells last heard of their machines to a page of nodes. A cell that does not
// answer in time adds nothing.
func (t *term) fill(ctx context.Context, page []starling.NodeStatus) {
	cells := map[string]map[string]rpc.CellMember{}
	for i := range page {
		if cells[page[i].Cell] == nil && page[i].Cell != "" {
			cells[page[i].Cell] = map[string]rpc.CellMember{}
		}
	}
	if len(cells) > maxCellsAsked || t.s.toCells == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var wg sync.WaitGroup
	for cell, members := range cells {
		wg.Go(func() { t.askAll(ctx, cell, members) })
	}
	wg.Wait()
	for i := range page {
		if m, ok := cells[page[i].Cell][page[i].Name]; ok {
			tellOf(&page[i], &m)
		}
	}
}

// askAll gathers a cell's members from those who report for it: of a cell in parts each
// knows its own.
func (t *term) askAll(ctx context.Context, cell string, members map[string]rpc.CellMember) {
	for _, relay := range t.cells.relaysOf(cell, t.now()) {
		client := rpc.Client{HTTP: &http.Client{Transport: toServer{t.s.toCells, relay.Addr}}}
		all, err := client.CellMembers(ctx)
		if err != nil {
			t.s.cfg.Logger.Debug("a cell was not asked", "cell", cell, "relay", relay.Name, "error", err)
			continue
		}
		for _, m := range all {
			if have, ok := members[m.Node.Name]; !ok || have.SeenAt.Before(m.SeenAt) {
				members[m.Node.Name] = m
			}
		}
	}
}

// relaysOf lists those whose reports on a cell count.
func (b *cellBoard) relaysOf(cell string, now time.Time) (relays []starling.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.cells[cell]; c != nil {
		for _, e := range c.accepted {
			if now.Sub(e.at) <= rpc.CellSilentAfter {
				relays = append(relays, e.Relay)
			}
		}
	}
	return relays
}

// tellOf adds what its cell knows of a machine.
func tellOf(n *starling.NodeStatus, m *rpc.CellMember) {
	if n.Addr == "" {
		n.Addr = m.Node.Addr
	}
	if m.SeenAt.After(n.SeenAt) {
		n.SeenAt = m.SeenAt
	}
	for i := range m.Reports {
		addReport(n, &m.Reports[i])
	}
}
