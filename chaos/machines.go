package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// recordEvery is how often the machines' own records are read.
const recordEvery = 500 * time.Millisecond

// generations follows which generations machines have accepted and run: they only grow.
// Safe for concurrent use.
type generations struct {
	mu     sync.Mutex
	newest map[[3]string]starling.Generation // by machine, app and which of the two
	back   int
	words  []string
}

func newGenerations() *generations {
	return &generations{newest: map[[3]string]starling.Generation{}}
}

func (g *generations) saw(machine, app, what string, now starling.Generation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := [3]string{machine, app, what}
	before := g.newest[key]
	if now.Compare(before) >= 0 {
		g.newest[key] = now
		return
	}
	g.newest[key] = now // each step back counts once
	g.back++
	if len(g.words) < maxProblems {
		g.words = append(g.words, fmt.Sprintf("machine %s went back with what it %s of %s: from %s to %s", machine, what, app, before, now))
	}
}

// follow reads what machines have on disk until ctx ends.
func (g *generations) follow(ctx context.Context, machines []*actor) error {
	for sleep(ctx, recordEvery) == nil {
		for _, m := range machines {
			names, err := filepath.Glob(filepath.Join(filepath.Dir(m.Config), "data", "machine", "apps", "*", "state.json"))
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := g.read(m.Name, name); err != nil {
					return err
				}
			}
		}
	}
	return ctx.Err()
}

func (g *generations) read(machine, name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("record of %s: %w", machine, err)
	}
	var record struct{ Goal, Running *starling.Goal }
	if err := json.Unmarshal(b, &record); err != nil {
		return fmt.Errorf("record of %s: %s: %w", machine, name, err)
	}
	app := filepath.Base(filepath.Dir(name))
	if record.Goal != nil {
		g.saw(machine, app, "wants", record.Goal.Generation)
	}
	if record.Running != nil {
		g.saw(machine, app, "runs", record.Running.Generation)
	}
	return nil
}
