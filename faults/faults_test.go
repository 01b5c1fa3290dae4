//go:build linux

package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Set, they make this binary become the victim by ExecTrapped.
const (
	helperVictim = "STARLING_FAULTS_VICTIM"
	helperSocket = "STARLING_FAULTS_SOCKET"
)

func TestMain(m *testing.M) {
	program := os.Getenv(helperVictim)
	if program == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, ExecTrapped(os.Getenv(helperSocket), "victim", []string{program}))
	os.Exit(1)
}

// told is what the victim says of itself.
type told struct {
	unix         int64
	runMS, synMS int64
	failed       bool
}

// harm starts a victim, trapped at socket if that is not empty; ask returns what it says now.
func harm(t *testing.T, socket string) (pid int, ask func() told) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	program := filepath.Join(t.TempDir(), "victim")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/victim").CombinedOutput(); err != nil {
		t.Fatalf("%s\n%s", err, out)
	}
	cmd := exec.Command(program) // it ends when its standard input does
	if socket != "" {
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helperVictim+"="+program, helperSocket+"="+socket)
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	lines := bufio.NewReader(out)
	return cmd.Process.Pid, func() (a told) {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(lines, &a.unix, &a.runMS, &a.synMS, &a.failed); err != nil {
			t.Fatal(err)
		}
		return a
	}
}

// A step moves the wall clock of the one process, both ways, and no monotonic clock.
func TestClockSteps(t *testing.T) {
	pid, ask := harm(t, "")
	ask() // it runs
	for range 2 {
		clock, err := TakeClock(pid) // again: the same offset
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []time.Duration{time.Hour, -48 * time.Hour, 0} {
			if err := clock.Step(step); err != nil {
				t.Fatal(err)
			}
			low := time.Now().Add(step).Unix()
			a := ask()
			if high := time.Now().Add(step).Unix(); a.unix < low || a.unix > high || a.runMS < 0 || a.runMS > 600_000 {
				t.Errorf("stepped by %s: its clock says %d, want %d to %d; it believes to run for %d ms", step, a.unix, low, high, a.runMS)
			}
		}
		if err := clock.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := TakeClock(1 << 30); err == nil {
		t.Error("a process that does not exist has a clock")
	}
}

func TestSyncsAreSlowOrFail(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "syncs")
	s, err := ListenSyncs(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, ask := harm(t, socket)
	if a := ask(); a.failed {
		t.Errorf("unharmed: %+v", a)
	}
	s.Delay("victim", 300*time.Millisecond)
	if a := ask(); a.failed || a.synMS < 300 {
		t.Errorf("delayed by 300 ms: %+v", a)
	}
	s.Fail("victim")
	if a := ask(); !a.failed {
		t.Errorf("failing: %+v", a)
	}
	s.Delay("victim", 0)
	if a := ask(); a.failed {
		t.Errorf("healed: %+v", a)
	}
	if n := s.Seen("victim"); n != 4 {
		t.Errorf("%d syncs were seen, want 4", n)
	}
}

func TestExecTrappedRefuses(t *testing.T) {
	for _, argv := range [][]string{nil, {filepath.Join(t.TempDir(), "nothing")}, {"true"}} {
		if err := ExecTrapped(filepath.Join(t.TempDir(), "nobody"), "x", argv); err == nil {
			t.Errorf("%s ran", strconv.Quote(fmt.Sprint(argv)))
		}
	}
}
