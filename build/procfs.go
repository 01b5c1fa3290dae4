package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is what one line of /proc/<pid>/stat says that we need.
type proc struct {
	pid, parent int
	start       uint64 // ticks since boot: with the pid it names a process for good
	rssBytes    int64
	dead        bool // a zombie, which only waits to be reaped
}

// parseStat reads the content of /proc/<pid>/stat. The program's name, in parentheses,
// may hold anything.
func parseStat(b []byte) (proc, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return proc{}, errors.New("stat: no name")
	}
	f := strings.Fields(string(b[end+1:])) // from field 3, the state, on
	if len(f) < 22 {
		return proc{}, errors.New("stat: too short")
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	parent, err2 := strconv.Atoi(f[1])
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	pages, err4 := strconv.ParseInt(f[21], 10, 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return proc{}, fmt.Errorf("stat: %w", err)
	}
	return proc{
		pid: pid, parent: parent, start: start,
		rssBytes: pages * int64(os.Getpagesize()),
		dead:     f[0] == "Z" || f[0] == "X",
	}, nil
}

// listProcs returns every process that /proc shows.
func listProcs() ([]proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []proc
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err != nil {
			continue // it has ended
		}
		if p, err := parseStat(b); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// family is a process and its descendants. One that was seen once stays in it when its
// parent ends and it is handed to another.
type family struct {
	known map[int]uint64 // pid to start
}

// look returns the living members, after taking in the descendants of those known.
func (f *family) look(all []proc) []proc {
	children := make(map[int][]proc, len(all))
	alive := make(map[int]proc, len(all))
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p)
		alive[p.pid] = p
	}
	var out, todo []proc
	for pid, start := range f.known {
		if p, ok := alive[pid]; ok && p.start == start {
			todo = append(todo, p)
		} else {
			delete(f.known, pid)
		}
	}
	seen := make(map[int]bool, len(todo))
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[p.pid] {
			continue
		}
		seen[p.pid] = true
		f.known[p.pid] = p.start
		todo = append(todo, children[p.pid]...)
		if !p.dead {
			out = append(out, p)
		}
	}
	return out
}

// proportionalBytes returns the memory of a process with shared pages split among
// their users, or its resident set if the kernel does not tell.
func proportionalBytes(p proc) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	if err != nil {
		return p.rssBytes
	}
	_, rest, ok := strings.Cut(string(b), "\nPss:")
	if !ok {
		return p.rssBytes
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return p.rssBytes
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return p.rssBytes
	}
	return kb << 10
}

// markVar is set, outside of the sandbox, in the environment of every process that a worker starts.
const markVar = "STARLING_BUILD_MARK"

// marked returns the living processes whose environment holds a mark with this prefix.
func marked(all []proc, prefix string) []proc {
	want := []byte(markVar + "=" + prefix)
	self := os.Getpid()
	var out []proc
	for _, p := range all {
		if p.dead || p.pid == self {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
		if err != nil {
			continue // ended, or not ours
		}
		if bytes.HasPrefix(env, want) || bytes.Contains(env, append([]byte{0}, want...)) {
			out = append(out, p)
		}
	}
	return out
}

// killAll kills what find returns again and again until it returns nothing.
func killAll(find func(all []proc) []proc) error {
	end := time.Now().Add(killTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		all, err := listProcs()
		if err != nil {
			return fmt.Errorf("looking for processes of a build: %w", err)
		}
		left := find(all)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes of a build did not die within %s, the first is %d", len(left), killTimeout, left[0].pid)
		}
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // whether it worked, the next look tells
		}
		time.Sleep(pause)
	}
}
