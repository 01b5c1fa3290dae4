package build

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroup is a control group (v2) of one build. Its methods accept a nil receiver, which
// stands for none.
type cgroup struct {
	path string
	dir  *os.File
}

// enableControllers makes memory and pids available to groups below dir and returns
// those that are.
func enableControllers(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	var on []string
	for _, c := range strings.Fields(string(b)) {
		if c != "memory" && c != "pids" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return nil, fmt.Errorf("cgroup: enabling %s: %w", c, err)
		}
		on = append(on, c)
	}
	return on, nil
}

// newCgroup makes a group below parent with the limits whose controllers are enabled.
func newCgroup(parent, name string, controllers []string, memoryBytes int64, processes int) (*cgroup, error) {
	path := filepath.Join(parent, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	limits := map[string][][2]string{
		"memory": {{"memory.max", strconv.FormatInt(memoryBytes, 10)}, {"memory.swap.max", "0"}, {"memory.oom.group", "1"}},
		"pids":   {{"pids.max", strconv.Itoa(processes)}},
	}
	for _, c := range controllers {
		for _, l := range limits[c] {
			err := os.WriteFile(filepath.Join(path, l[0]), []byte(l[1]), 0)
			if l[0] == "memory.swap.max" && errors.Is(err, os.ErrNotExist) {
				continue // a kernel without swap accounting
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("cgroup: %w", err), os.Remove(path))
			}
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cgroup: %w", err), os.Remove(path))
	}
	return &cgroup{path: path, dir: dir}, nil
}

// removeStale removes the groups below parent whose names begin with prefix, and kills
// what is in them.
func removeStale(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		c := &cgroup{path: filepath.Join(parent, e.Name())}
		if err := c.kill(); err != nil {
			return err
		}
		if err := os.Remove(c.path); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// kill kills all members, those that left their session and parent included.
func (c *cgroup) kill() error {
	if c == nil {
		return nil
	}
	if err := os.WriteFile(filepath.Join(c.path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	end := time.Now().Add(killTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(c.path, "cgroup.events"))
		if err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		if bytes.Contains(b, []byte("populated 0")) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroup: members did not die within %s", killTimeout)
		}
		time.Sleep(pause)
	}
}

// ranOutOfMemory reports whether the kernel killed a member for the memory limit.
func (c *cgroup) ranOutOfMemory() bool {
	if c == nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(c.path, "memory.events"))
	if err != nil {
		return false // no memory controller
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if n, ok := strings.CutPrefix(s.Text(), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// remove removes the group, which must have no member left.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.dir.Close(), os.Remove(c.path))
}
