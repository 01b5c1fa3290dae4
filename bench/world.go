package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// inWorld starts a world of the given size in a new folder in dir ("": where temporary
// files go), waits until it is ready, and calls f; everything is gone afterwards.
func inWorld(ctx context.Context, bin, dir string, size world.Size, tell trial.Progress, f func(*world.World, *client.Client) error, hosts ...world.Host) (err error) {
	dir, err = os.MkdirTemp(dir, "starling-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := world.New(bin, dir, size, hosts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := w.Start(); err != nil {
		return err
	}
	w.Told = func(server string, seen, all int) {
		tell.Tell("starting; "+server+" sees", float64(seen), float64(all), "processes")
	}
	clients, err := w.Ready(ctx)
	if err != nil {
		return err
	}
	return f(w, clients[w.Procs[0].Region])
}

// usage is what processes have used.
type usage struct {
	cpuS     float64 // with all that they have started
	rssMB    float64 // now, the largest of them
	ownMB    float64 // of it what is no file's, the largest of them
	rssMaxMB float64 // high-water mark, the largest of them
}

// usageOf reads the kernel's account of processes and of those that they have started (proc(5)).
func usageOf(pids []int) (usage, error) {
	var u usage
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		cpu, err := cpuSeconds(filepath.Join(dir, "stat"))
		if err != nil {
			return u, err
		}
		u.cpuS += cpu
		now, own, high, err := residentMB(filepath.Join(dir, "status"))
		if err != nil {
			return u, err
		}
		u.rssMB, u.ownMB = max(u.rssMB, now), max(u.ownMB, own)
		u.rssMaxMB = max(u.rssMaxMB, high)
		children, err := childrenOf(dir)
		if err != nil {
			return u, err
		}
		for _, child := range children {
			below, err := usageOf([]int{child})
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it has ended meanwhile: it is in its parent's account
			} else if err != nil {
				return u, err
			}
			u.cpuS += below.cpuS
			u.rssMB, u.ownMB, u.rssMaxMB = max(u.rssMB, below.rssMB), max(u.ownMB, below.ownMB), max(u.rssMaxMB, below.rssMaxMB)
		}
	}
	return u, nil
}

// childrenOf lists a process's children that run; each of its threads has its own.
func childrenOf(dir string) ([]int, error) {
	lists, err := filepath.Glob(filepath.Join(dir, "task", "*", "children"))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, list := range lists {
		b, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		} else if err != nil {
			return nil, err
		}
		for _, word := range bytes.Fields(b) {
			pid, err := strconv.Atoi(string(word))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list, err)
			}
			out = append(out, pid)
		}
	}
	return out, nil
}

// account is the usage of a world's processes, of which some may be gone.
type account struct {
	procs  []*world.Proc
	buried map[*world.Proc]bool
	lost   usage // of runs that have ended
}

func newAccount(procs []*world.Proc) *account {
	return &account{procs: procs, buried: map[*world.Proc]bool{}}
}

// bury takes the account of a process that is about to be killed.
func (a *account) bury(p *world.Proc) error {
	u, err := usageOf([]int{p.PID()})
	if err != nil {
		return err
	}
	a.buried[p] = true
	a.lost.cpuS += u.cpuS
	a.lost.rssMaxMB = max(a.lost.rssMaxMB, u.rssMaxMB)
	return nil
}

func (a *account) usage() (usage, error) {
	u, err := usageOf(pidsOf(slices.DeleteFunc(slices.Clone(a.procs), func(p *world.Proc) bool { return a.buried[p] })))
	u.cpuS += a.lost.cpuS
	u.rssMaxMB = max(u.rssMaxMB, a.lost.rssMaxMB)
	return u, err
}

func pidsOf(procs []*world.Proc) []int {
	var out []int
	for _, p := range procs {
		out = append(out, p.PID())
	}
	return out
}

// ticksPerS is the unit of times in /proc, fixed on Linux (USER_HZ).
const ticksPerS = 100

func cpuSeconds(stat string) (float64, error) {
	b, err := os.ReadFile(stat)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name may hold anything
	var ticks int64
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
		if i >= len(fields) {
			return 0, fmt.Errorf("%s: too short", stat)
		}
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", stat, err)
		}
		ticks += n
	}
	return float64(ticks) / ticksPerS, nil
}

func residentMB(status string) (now, own, high float64, err error) {
	b, err := os.ReadFile(status)
	if err != nil {
		return 0, 0, 0, err
	}
	for line := range bytes.Lines(b) {
		var kb float64
		if n, _ := fmt.Sscanf(string(line), "VmRSS: %f kB", &kb); n == 1 {
			now = kb / 1024
		}
		if n, _ := fmt.Sscanf(string(line), "RssAnon: %f kB", &kb); n == 1 {
			own = kb / 1024
		}
		if n, _ := fmt.Sscanf(string(line), "VmHWM: %f kB", &kb); n == 1 {
			high = kb / 1024
		}
	}
	return now, own, high, nil
}

// idleRSS measures the largest resident memory by role, in MB, settle after the start.
func idleRSS(ctx context.Context, w *world.World, settle time.Duration) (map[starling.Role]float64, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(settle):
	}
	out := map[starling.Role]float64{}
	for _, r := range starling.Roles {
		u, err := usageOf(pidsOf(w.WithRole(r)))
		if err != nil {
			return nil, err
		}
		if u.rssMB > 0 {
			out[r] = u.rssMB
		}
	}
	return out, nil
}
