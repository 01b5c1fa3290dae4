package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/starlingdeploy/starling"
)

const (
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"
	unitIface    = "org.freedesktop.systemd1.Unit"
	serviceIface = "org.freedesktop.systemd1.Service"
)

// startBus runs a D-Bus daemon of the test's own and returns its address.
func startBus(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not installed here: apt-get install dbus-daemon")
	}
	dir, err := os.MkdirTemp("", "bus") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	text := fmt.Sprintf(`<busconfig><type>session</type><listen>unix:path=%s/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+config, "--nofork", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// fakeSystemd is as much of org.freedesktop.systemd1 as units need, on a real bus. It runs
// one service, hello.service, by a real process.
type fakeSystemd struct {
	t    testing.TB
	conn *godbus.Conn
	make func() *exec.Cmd // nil: there is no such unit

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{}
	active  string
	result  string
	status  int32
	calls   []string
	jobs    uint32
	refuse  *godbus.Error // of every job
	verdict string        // of jobs, instead of done; they do nothing then
}

func newFakeSystemd(t testing.TB, address string, makeCmd func() *exec.Cmd) *fakeSystemd {
	t.Helper()
	conn, err := dialBus(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeSystemd{t: t, conn: conn, make: makeCmd, active: "inactive"}
	err = conn.ExportMethodTable(map[string]any{
		"Subscribe":   func() *godbus.Error { return nil },
		"StartUnit":   func(u, mode string) (godbus.ObjectPath, *godbus.Error) { return s.job("start", u, mode) },
		"StopUnit":    func(u, mode string) (godbus.ObjectPath, *godbus.Error) { return s.job("stop", u, mode) },
		"RestartUnit": func(u, mode string) (godbus.ObjectPath, *godbus.Error) { return s.job("restart", u, mode) },
	}, managerPath, managerIface)
	if err != nil {
		t.Fatal(err)
	}
	unit := godbus.ObjectPath(managerPath + "/unit/" + dbus.PathBusEscape("hello.service"))
	err = conn.ExportMethodTable(map[string]any{"GetAll": s.properties}, unit, "org.freedesktop.DBus.Properties")
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName("org.freedesktop.systemd1", godbus.NameFlagDoNotQueue); err != nil || reply != godbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("name: %v, %v", reply, err)
	}
	t.Cleanup(func() {
		s.mu.Lock()
		s.kill()
		s.mu.Unlock()
		conn.Close()
	})
	return s
}

func (s *fakeSystemd) job(verb, unit, mode string) (godbus.ObjectPath, *godbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, verb)
	if s.refuse != nil {
		return "", s.refuse
	}
	if unit != "hello.service" || s.make == nil {
		return "", godbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + unit + " not found."})
	}
	if mode != "replace" {
		return "", godbus.NewError("org.freedesktop.DBus.Error.InvalidArgs", []any{mode})
	}
	verdict := s.verdict
	if verdict == "" {
		verdict = "done"
		s.kill()
		if verb != "stop" {
			s.start()
		}
	}
	s.jobs++
	id := s.jobs
	path := godbus.ObjectPath(fmt.Sprintf("%s/job/%d", managerPath, id))
	// A job may end before its caller has the answer, as systemd's do.
	if err := s.conn.Emit(managerPath, managerIface+".JobRemoved", id, path, unit, verdict); err != nil {
		return "", godbus.MakeFailedError(err)
	}
	return path, nil
}

// start starts the process; the caller holds mu.
func (s *fakeSystemd) start() {
	cmd := s.make()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.active, s.result, s.status = "failed", "exit-code", 203
		return
	}
	exited := make(chan struct{})
	s.cmd, s.exited, s.active, s.result = cmd, exited, "active", "success"
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the state says how
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cmd != cmd {
			return // it was stopped
		}
		s.active, s.result, s.status = "inactive", "success", 0
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			s.active, s.result, s.status = "failed", "exit-code", int32(code)
		}
		s.cmd = nil
	}()
}

// kill ends the process; the caller holds mu.
func (s *fakeSystemd) kill() {
	cmd, exited := s.cmd, s.exited
	s.cmd, s.active = nil, "inactive"
	if cmd == nil {
		return
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	s.mu.Unlock()
	<-exited
	s.mu.Lock()
}

func (s *fakeSystemd) properties(iface string) (map[string]godbus.Variant, *godbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	load, sub := "loaded", map[string]string{"active": "running", "inactive": "dead", "failed": "failed"}[s.active]
	if s.make == nil {
		load = "not-found"
	}
	switch iface {
	case unitIface:
		return map[string]godbus.Variant{"LoadState": godbus.MakeVariant(load), "ActiveState": godbus.MakeVariant(s.active), "SubState": godbus.MakeVariant(sub)}, nil
	case serviceIface:
		return map[string]godbus.Variant{"Result": godbus.MakeVariant(s.result), "ExecMainStatus": godbus.MakeVariant(s.status)}, nil
	}
	return nil, godbus.NewError("org.freedesktop.DBus.Error.UnknownInterface", []any{iface})
}

func (s *fakeSystemd) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *fakeSystemd) history() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, " ")
}

// unitMachine is a machine whose systemd has a unit for the app.
func unitMachine(t *testing.T, r *region) (*machine, *fakeSystemd) {
	t.Helper()
	address := startBus(t)
	m := r.machine("m1", func(c *Config) { c.SystemBus = address })
	path := exe(t)
	s := newFakeSystemd(t, address, func() *exec.Cmd { // what a unit file would say
		cmd := exec.Command(path, "helper-serve")
		cmd.Dir = m.app("current")
		cmd.Env = []string{fmt.Sprintf("PORT=%d", m.port)}
		return cmd
	})
	return m, s
}

func byUnit(g *starling.Goal) {
	g.Deploy.Run, g.Deploy.SystemdUnit = nil, "hello.service"
}

func TestUnitRunsReleases(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m, s := unitMachine(t, r)
	v1, v2, bad := r.push(versionFiles("v1", "ok")), r.push(versionFiles("v2", "ok")), r.push(versionFiles("v3", "crash"))
	r.leader.setGoal(goal(1, v1, running(t), byUnit))
	m.await(1, starling.MachineHealthy)
	if !m.serves("v1") {
		t.Fatal("v1 does not answer")
	}
	r.leader.setGoal(goal(2, v2, running(t), byUnit))
	m.await(2, starling.MachineHealthy)
	if !m.serves("v2") {
		t.Fatal("v2 does not answer")
	}

	// A release that ends at once fails with what systemd says, and the one before is back.
	r.leader.setGoal(goal(3, bad, running(t), byUnit))
	rep := m.await(3, starling.MachineFailed)
	for _, want := range []string{"hello.service", "failed", "exit status 3", "journalctl -u hello.service"} {
		if !strings.Contains(rep.Reason, want) {
			t.Errorf("the reason lacks %q: %s", want, rep.Reason)
		}
	}
	eventually(t, 30*time.Second, "v2 is back", func() bool { return m.serves("v2") })

	// The unit outlives the agent, and the next one takes it over as it is.
	before := s.history()
	m.stop()
	if !m.serves("v2") {
		t.Error("the unit ended with the agent")
	}
	m.start()
	r.leader.setGoal(goal(4, v2, running(t), byUnit))
	m.await(4, starling.MachineHealthy)
	if got := s.history(); got != before {
		t.Errorf("systemd was asked for %q, then %q: the release ran already", before, got)
	}

	// One that ends by itself is told of; its restarts are the unit's own business.
	s.set(s.kill)
	rep = m.await(4, starling.MachineActivating)
	if !strings.Contains(rep.Reason, "unit hello.service is inactive (dead)") {
		t.Errorf("reason %q", rep.Reason)
	}
	s.set(s.start)
	m.await(4, starling.MachineHealthy)

	gone := goal(5, v2, running(t), byUnit)
	gone.Deploy.Targets = "role == db"
	r.leader.setGoal(gone)
	eventually(t, 30*time.Second, "the unit is stopped", func() bool { return !m.serves("v2") })
}

func TestUnitsThatCannotStart(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m, s := unitMachine(t, r)
	v1 := r.push(versionFiles("v1", "ok"))
	works := s.make
	for i, c := range []struct {
		change func()
		want   string
	}{
		{func() { s.make = nil }, "Unit hello.service not found"},
		{func() {
			s.make, s.refuse = works, godbus.NewError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", []any{"Interactive authentication required."})
		}, "Interactive authentication required"},
		{func() { s.refuse, s.verdict = nil, "dependency" }, "systemd: dependency"},
		{func() { s.verdict = ""; s.make = func() *exec.Cmd { return exec.Command("/no/such/program") } }, "exit status 203"},
	} {
		s.set(c.change)
		gen := uint64(i + 1)
		r.leader.setGoal(goal(gen, v1, running(t), byUnit))
		if rep := m.await(gen, starling.MachineFailed); !strings.Contains(rep.Reason, c.want) {
			t.Errorf("want %q in the reason: %s", c.want, rep.Reason)
		}
	}
}

func TestUnitWithoutABus(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1", func(c *Config) { c.SystemBus = "unix:path=" + filepath.Join(t.TempDir(), "none") })
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t), byUnit))
	rep := m.await(1, starling.MachineFailed)
	if !strings.Contains(rep.Reason, "systemd cannot be reached over D-Bus") || !strings.Contains(rep.Reason, "a machine that systemd runs") {
		t.Errorf("reason %q", rep.Reason)
	}
}
