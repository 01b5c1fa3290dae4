package bench

import (
	"context"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// benchQuiet keeps cells as they were formed while a measurement lasts.
const benchQuiet = "24h"

// CellsResult tells of the cells that the machines formed, and what a machine's agent took
// at the end: that must follow the size of its cell, and not that of its region.
type CellsResult struct {
	Size       int     `json:"size"` // machines of a cell at most
	Sizes      []int   `json:"sizes"`
	AgentRSSMB Spread  `json:"agent_rss_mb"` // resident memory, over the machines
	AgentCPUS  float64 `json:"agent_cpu_s"`  // processor time since the start, the median machine's
}

// measureCells looks at a world whose deployment is over.
func measureCells(ctx context.Context, w *world.World, api *client.Client, size int) (*CellsResult, error) {
	cells, err := api.Cells(ctx)
	if err != nil {
		return nil, err
	}
	out := &CellsResult{Size: size}
	for _, c := range cells {
		out.Sizes = append(out.Sizes, c.Machines)
	}
	var rss, cpu []float64
	for _, p := range w.WithRole(starling.RoleMachine) {
		u, err := usageOf([]int{p.PID()})
		if err != nil {
			return nil, err
		}
		rss, cpu = append(rss, u.rssMB), append(cpu, u.cpuS)
	}
	slices.Sort(rss)
	slices.Sort(cpu)
	if n := len(rss); n > 0 {
		out.AgentRSSMB = Spread{Median: rss[(n-1)/2], Min: rss[0], Max: rss[n-1]}
		out.AgentCPUS = cpu[(n-1)/2]
	}
	return out, nil
}
