package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How a server's garbage is collected.
const (
	heapRoomBytes = 64 << 20 // of garbage at least before it is collected
	heapLookEvery = 5 * time.Second
	leastLive     = 8 << 20 // bytes in use that are reckoned with before the first collection
	usualPercent  = 100     // Go's own: as much garbage as there are bytes in use
)

// keepHeapRoomy collects a server's garbage by the tens of megabytes. Its state is small
// as a rule and its turnover large: by Go's own measure, of as much garbage as there is in
// use, a third of a busy server's CPU goes into collections. GOGC in the environment is respected.
func keepHeapRoomy(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent(0)))
	ticker := time.NewTicker(heapLookEvery)
	defer ticker.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := gcPercent(0)
	for {
		metrics.Read(live)
		if want := gcPercent(live[0].Value.Uint64()); want < set-set/8 || want > set+set/8 {
			debug.SetGCPercent(want) // it stops the world: not for a trifle
			set = want
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// gcPercent is the garbage to gather before a collection, in percent of the bytes in use.
func gcPercent(live uint64) int {
	return max(usualPercent, int(usualPercent*heapRoomBytes/max(live, leastLive)))
}
