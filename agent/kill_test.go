package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

func newLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, 1<<20); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, 1<<20); err != nil {
		t.Fatal(err)
	}
}

// outside is an agent in a process of its own, which tests can kill.
type outside struct {
	Node    starling.Node
	DataDir string
	Port    int
	Members []starling.Node
	Creds   string // directory of ca.pem, cert.pem, key.pem
	Goals   string // file with the goals
	Reports string // file to which reports are appended
	Cap     int64

	t   *testing.T
	cmd *exec.Cmd
	out bytes.Buffer
}

func (r *region) outside(t *testing.T, name string, cap int64) *outside {
	dir := t.TempDir()
	n := machineNode(name)
	n.Addr = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	o := &outside{Node: n, DataDir: filepath.Join(dir, "data"), Port: freePort(t), Members: append(r.roster.Members(), n),
		Creds: r.dir, Goals: filepath.Join(dir, "goals"), Reports: filepath.Join(dir, "reports"), Cap: cap, t: t}
	t.Cleanup(o.kill)
	return o
}

func (o *outside) start() {
	o.t.Helper()
	conf, err := json.Marshal(o)
	if err != nil {
		o.t.Fatal(err)
	}
	o.out.Reset()
	o.cmd = exec.Command(exe(o.t), "helper-agent")
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = bytes.NewReader(conf), &o.out, &o.out
	if err := o.cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
}

// kill is kill -9.
func (o *outside) kill() {
	if o.cmd == nil {
		return
	}
	_ = o.cmd.Process.Kill() // it may have ended
	_ = o.cmd.Wait()         // killed: that is the error
	o.cmd = nil
	if strings.Contains(o.out.String(), "DATA RACE") || strings.Contains(o.out.String(), "panic:") {
		o.t.Error(o.out.String())
	}
}

func (o *outside) setGoal(g starling.Goal) {
	o.t.Helper()
	b, err := json.Marshal(rpc.Goals{Index: g.Generation.Sequence, Goals: []*starling.Goal{&g}})
	if err != nil {
		o.t.Fatal(err)
	}
	if err := writeDurably(o.Goals, b); err != nil {
		o.t.Fatal(err)
	}
}

// last returns the newest report.
func (o *outside) last() (rep starling.MachineReport) {
	b, err := os.ReadFile(o.Reports)
	if err != nil {
		return rep
	}
	lines := bytes.Split(b, []byte("\n"))
	if len(lines) < 2 {
		return rep
	}
	_ = json.Unmarshal(lines[len(lines)-2], &rep) // a line cut short by a kill is no report
	return rep
}

func (o *outside) app(parts ...string) string {
	return filepath.Join(append([]string{o.DataDir, "apps", "hello"}, parts...)...)
}

// fileLeader reads goals from a file and appends reports to another.
type fileLeader struct{ goals, reports string }

func (l fileLeader) Goals(ctx context.Context, index uint64, _ string, wait time.Duration) (rpc.Goals, error) {
	deadline := time.Now().Add(wait)
	for {
		var g rpc.Goals
		b, err := os.ReadFile(l.goals)
		if err == nil {
			err = json.Unmarshal(b, &g)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return g, err
		}
		if g.Index > index || time.Now().After(deadline) {
			return g, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return g, ctx.Err()
		}
	}
}

func (l fileLeader) ReportMachine(_ context.Context, reports []starling.MachineReport) error {
	f, err := os.OpenFile(l.reports, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, r := range reports {
		if err := writeLine(f, r); err != nil {
			return err
		}
	}
	return nil
}

// helperAgent is the process of an outside agent.
func helperAgent() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := runOutside(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runOutside(ctx context.Context) error {
	var o outside
	b, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	creds, err := pki.LoadFiles(filepath.Join(o.Creds, "ca.pem"), filepath.Join(o.Creds, "cert.pem"), filepath.Join(o.Creds, "key.pem"))
	if err != nil {
		return err
	}
	e, err := listenEndpoint(identityOf(o.Node), o.Node.Addr)
	if err != nil {
		return err
	}
	defer e.close()
	a, err := New(Config{
		Node: o.Node, DataDir: o.DataDir, Env: map[string]string{"PORT": strconv.Itoa(o.Port)},
		Leader: fileLeader{o.Goals, o.Reports}, Members: newRoster(o.Members...),
		DialBlob: e.dialBlob, DialSwarm: e.dialSwarm, AcceptBlob: e.accept(testBlob), AcceptSwarm: e.accept(testSwarm),
		Verify: func(envelope []byte, want starling.Digest) (*starling.Manifest, []byte, error) {
			return artifact.Verify(envelope, want, creds)
		},
		DownloadBytesPerSecond: o.Cap,
		Logger:                 slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// A machine is killed again and again while it goes from one release to the next.
// At every instant current leads to a whole release, and in the end it is the new one.
func TestKilledAtAnyInstant(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	o := r.outside(t, "m1", 0)
	trees := map[string]map[string][]byte{}
	var artifacts []starling.Digest
	for i := range 3 {
		v := fmt.Sprintf("v%d", i)
		trees[v] = map[string][]byte{"version": []byte(v), "mode": []byte("ok"), "data": noise(uint64(20+i), 3<<20)}
		artifacts = append(artifacts, r.push(trees[v]))
	}
	rng := rand.New(rand.NewPCG(1, 1))
	const rounds = 4
	kills := 0
	for round := range rounds {
		seq := uint64(round + 1)
		o.setGoal(goal(seq, artifacts[round%3], running(t)))
		want := fmt.Sprintf("v%d", round%3)
		for attempt := 0; ; attempt++ {
			o.start()
			// Later and later, so that some round gets through whatever the machine's speed.
			after := time.Duration(rng.IntN(60+40*attempt)) * time.Millisecond
			done := waitUntil(after, func() bool {
				rep := o.last()
				return rep.Generation.Sequence == seq && rep.State == starling.MachineHealthy
			})
			o.kill()
			kills++
			wholeRelease(t, o, trees)
			if done {
				break
			}
			if attempt > 60 {
				t.Fatalf("generation %d is never healthy; last report %+v", seq, o.last())
			}
		}
		if got := readFileOr(o.app("current", "version"), ""); got != want {
			t.Fatalf("current is %q after generation %d was reported healthy", got, seq)
		}
	}
	t.Logf("%d kills in %d rounds", kills, rounds)

	// And nothing that was started survives.
	eventually(t, 30*time.Second, "the killed agent's child is gone", func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

func waitUntil(within time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// wholeRelease checks that current, if there is one, leads to all files of one version.
func wholeRelease(t *testing.T, o *outside, trees map[string]map[string][]byte) {
	t.Helper()
	if _, err := os.Lstat(o.app("current")); errors.Is(err, os.ErrNotExist) {
		return // the first activation had not come so far
	}
	files := trees[readFileOr(o.app("current", "version"), "?")]
	if files == nil {
		t.Fatalf("current leads to no known version")
	}
	for name, want := range files {
		if got := readFileOr(o.app("current", name), ""); got != string(want) {
			t.Fatalf("%s of current is not whole", name)
		}
	}
}

// A fetch that was killed goes on with every chunk that was on disk, noted or not: of
// what it had, under 1 % is fetched twice.
func TestKilledFetchResumes(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	const size, perSecond = 12 << 20, 10 << 20
	o := r.outside(t, "m1", 0)
	for round, part := range []int64{1, 3, 5} { // sixths
		files := map[string][]byte{"big": noise(uint64(30+round), size-4000), "zeros": make([]byte, 4000)}
		seq := uint64(round + 1)
		artifact := r.push(files)
		o.setGoal(goal(seq, artifact))
		o.Cap = perSecond
		before := r.bytesOut()
		o.start()
		if !waitUntil(20*time.Second, func() bool { return r.bytesOut()-before > size*part/6 }) {
			t.Fatal("the fetch does not come far")
		}
		o.kill()
		had := bytesOnDisk(t, r, o, artifact)
		o.Cap = 0
		o.start()
		if !waitUntil(30*time.Second, func() bool {
			rep := o.last()
			return rep.Generation.Sequence == seq && rep.State == starling.MachineHealthy
		}) {
			t.Fatalf("not healthy: %+v", o.last())
		}
		if got := readFileOr(o.app("current", "big"), ""); got != string(files["big"]) {
			t.Error("the file is not whole")
		}
		fetched := o.last().Bytes.CacheOut
		o.kill()
		if twice := fetched + had - size; twice > had/100 {
			t.Errorf("%d bytes of %d that were there were fetched again", twice, had)
		}
		t.Logf("killed with %.1f MiB of %d on disk; %.1f MiB were fetched after that", float64(had)/(1<<20), size>>20, float64(fetched)/(1<<20))
	}
}

// bytesOnDisk counts the chunks of an unfinished release that stand whole in its files.
func bytesOnDisk(t *testing.T, r *region, o *outside, artifact starling.Digest) int64 {
	t.Helper()
	envelope, err := r.store.Manifest(t.Context(), artifact)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := r.verify(envelope, artifact)
	if err != nil {
		t.Fatal(err)
	}
	var content []byte
	for _, f := range m.Files {
		content = append(content, readFileOr(o.app("releases", artifact.Hex()[:idDigits], treeName, f.Path), "")...)
	}
	n, at := int64(0), 0
	for _, c := range m.Chunks {
		if at+c.Size <= len(content) && starling.DigestOf(content[at:at+c.Size]) == c.Digest {
			n += int64(c.Size)
		}
		at += c.Size
	}
	return n
}
