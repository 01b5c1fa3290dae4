package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/faults"
	"github.com/starlingdeploy/starling/lab"
	"github.com/starlingdeploy/starling/world"
)

// diskBytes is the size of the small file system of each server and cache. It lies in
// memory, of which it takes what is written.
const diskBytes = 2 << 30

// restartAfter is how long a process that ended by itself is away, as under systemd.
const restartAfter = time.Second

// actor is one process with all that can be done to it.
type actor struct {
	*world.Proc
	host  lab.Host
	api   *client.Client // servers only
	disk  string         // mount point of its small file system; "": none
	down  bool           // killed on purpose, and not yet started again
	clock *faults.Clock  // of this run; nil: not taken
}

// stage is the world with its hosts. Safe for concurrent use once it is up; mu guards what
// changes about actors.
type stage struct {
	lab    *lab.Lab
	world  *world.World
	actors []*actor
	syncs  *faults.Syncs // nil: syncs cannot be held up
	log    *slog.Logger

	mu    sync.Mutex
	cuts  map[[2]string]int // links, from and to, by how many faults have cut them
	fell  map[string]int    // processes that ended by themselves
	words []string          // what they said at their end
}

// size is the world of a configuration.
func (c *Config) size() world.Size {
	return world.Size{Regions: c.Regions, Servers: c.Servers, Caches: c.Caches, Workers: c.Workers, Machines: c.Machines}
}

// newStage makes hosts, file systems and processes, and starts them.
func newStage(c *Config, dir string) (s *stage, err error) {
	size := c.size()
	s = &stage{log: c.Log, fell: map[string]int{}, cuts: map[[2]string]int{}}
	count := size.Regions*(size.Servers+size.Caches+size.Workers) + size.Machines
	if s.lab, err = lab.Up(count); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "syncs")
	if s.syncs, err = faults.ListenSyncs(socket); err != nil {
		return nil, errors.Join(err, s.lab.Down())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	// A process's place among its hosts says its role: world.New has servers, caches and
	// workers of each region, then the machines.
	each := size.Servers + size.Caches + size.Workers
	var hosts []world.Host
	for i, h := range s.lab.Hosts() {
		prefix := h.Prefix()
		if i < size.Regions*each && i%each < size.Servers+size.Caches {
			prefix = append(prefix, c.Self, ExecCommand, socket, h.Name)
		}
		hosts = append(hosts, world.Host{IP: h.IP, Prefix: prefix, Dial: h.Dial})
	}
	if s.world, err = world.New(c.Bin, filepath.Join(dir, "world"), size, hosts...); err != nil {
		return nil, err
	}
	for i, p := range s.world.Procs {
		a := &actor{Proc: p, host: s.lab.Hosts()[i]}
		if p.Role == starling.RoleServer || p.Role == starling.RoleCache {
			a.disk = filepath.Join(filepath.Dir(p.Config), "data")
			if err := mountDisk(a.disk); err != nil {
				return nil, err
			}
		}
		if p.Role == starling.RoleServer {
			if a.api, err = p.Client(); err != nil {
				return nil, err
			}
		}
		s.actors = append(s.actors, a)
	}
	return s, s.world.Start()
}

// ExecCommand is the hidden command of the program at Config.Self that calls
// faults.ExecTrapped with a socket, a name and a command line.
const ExecCommand = "exec-trapped"

// mountDisk makes a small file system, which is gone with this process's mount namespace.
func mountDisk(at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("starling-chaos", at, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskBytes)); err != nil {
		return fmt.Errorf("mount a small file system at %s: %w", at, err)
	}
	return nil
}

// close ends all processes, stopped ones too.
func (s *stage) close() error {
	var errs []error
	if s.world != nil {
		for _, a := range s.actors {
			errs = append(errs, a.signal(unix.SIGCONT))
		}
		errs = append(errs, s.world.Close())
	}
	for _, a := range s.actors {
		if a.clock != nil {
			errs = append(errs, a.clock.Close())
		}
		if a.disk != "" {
			errs = append(errs, unix.Unmount(a.disk, unix.MNT_DETACH))
		}
	}
	if s.syncs != nil {
		errs = append(errs, s.syncs.Close())
	}
	return errors.Join(append(errs, s.lab.Down())...)
}

// signal sends a signal to the process if it runs.
func (a *actor) signal(sig unix.Signal) error {
	if a.PID() == 0 || a.ended() {
		return nil
	}
	if err := unix.Kill(a.PID(), sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s: %w", a.Name, err)
	}
	return nil
}

// with returns the actors of a region, or of all (""), that play a role.
func (s *stage) with(region string, role starling.Role) []*actor {
	return slices.DeleteFunc(slices.Clone(s.actors), func(a *actor) bool {
		return a.Role != role || region != "" && a.Region != region
	})
}

// supervise starts again, as systemd would, what ended without being killed, until ctx ends.
func (s *stage) supervise(ctx context.Context) error {
	since := map[*actor]time.Time{} // when it was seen to have ended
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, a := range s.actors {
			if err := s.look(a, since); err != nil {
				return err
			}
		}
	}
}

func (s *stage) look(a *actor, since map[*actor]time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.down || !a.ended() {
		delete(since, a)
		return nil
	}
	at, seen := since[a]
	if !seen {
		since[a] = time.Now()
		s.fell[a.Name]++
		if len(s.words) < maxProblems {
			s.words = append(s.words, a.Name+" ended by itself: "+lastLine(a.Tail()))
		}
		s.log.Warn("a process ended by itself", "name", a.Name, "said", lastLine(a.Tail()))
		return nil
	}
	if time.Since(at) < restartAfter {
		return nil
	}
	delete(since, a)
	return s.startLocked(a)
}

func (a *actor) ended() bool {
	select {
	case <-a.Exited():
		return true
	default:
		return false
	}
}

func (s *stage) startLocked(a *actor) error {
	a.down = false
	if a.clock != nil { // of the run before
		if err := a.clock.Close(); err != nil {
			return err
		}
		a.clock = nil
	}
	return s.world.StartOne(a.Proc)
}

func (s *stage) start(a *actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !a.down {
		return nil
	}
	return s.startLocked(a)
}

func (s *stage) kill(a *actor) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.down = true
	return a.Kill()
}

// remount changes the size of a small file system.
func remount(at string, bytes uint64) error {
	if err := unix.Mount("starling-chaos", at, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", bytes)); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", at, bytes, err)
	}
	return nil
}

// fill shrinks a file system to what it holds. What is written meanwhile makes it fail, so
// it leaves a little more at each try.
func fill(at string) error {
	var err error
	for room := uint64(0); room <= 1<<20; room = 2*room + 64<<10 {
		var now unix.Statfs_t
		if err := unix.Statfs(at, &now); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err = remount(at, (now.Blocks-now.Bfree)*uint64(now.Bsize)+room); err == nil {
			return nil
		}
	}
	return err
}

// lastLine returns the end of a log, for a message.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	return last[:min(len(last), 300)]
}

// git runs git in a repository and returns what it prints.
func git(ctx context.Context, repo string, args ...string) (string, error) {
	settings := []string{"-C", repo, "-c", "user.name=Chaos", "-c", "user.email=chaos@starling.example", "-c", "gc.auto=0"}
	out, err := exec.CommandContext(ctx, "git", append(settings, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
