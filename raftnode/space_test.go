package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

func TestRoom(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		free, total, reserve uint64
		want                 room
	}{
		{300 << 20, 100 * gib, 0, roomEnough},
		{200 << 20, 100 * gib, 0, roomLow},
		{60 << 20, 100 * gib, 0, roomFull},
		{60 << 20, gib, 0, roomEnough}, // a twentieth of a small disk
		{40 << 20, gib, 0, roomLow},
		{10 << 20, gib, 0, roomFull},
		{10 << 20, gib, 8 << 20, roomEnough},
		{0, gib, 1, roomLow}, // a reserve of nothing to speak of
	}
	for _, tc := range tests {
		if got := (space{tc.free, tc.total}).room(tc.reserve); got != tc.want {
			t.Errorf("%d of %d free, reserve %d: %q, want %q", tc.free, tc.total, tc.reserve, got, tc.want)
		}
	}
	if s, err := spaceOf(t.TempDir()); err != nil || s.totalBytes == 0 || s.freeBytes > s.totalBytes {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := spaceOf("/nowhere"); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func TestHeirHasRoom(t *testing.T) {
	servers := []raft.Server{{ID: "s1"}, {ID: "s2"}, {ID: "s3", Suffrage: raft.Nonvoter}, {ID: "s4"}, {ID: "s5"}}
	tag := func(v string) map[string]string { return map[string]string{tagDisk: v} }
	peers := []Peer{
		{Name: "s1", State: PeerAlive}, {Name: "s2", State: PeerAlive, Tags: tag("low")}, {Name: "s3", State: PeerAlive},
		{Name: "s4", State: PeerFailed}, {Name: "s5", State: PeerAlive},
	}
	if got, ok := heir(servers, peers, "s1"); !ok || got.ID != "s5" {
		t.Errorf("heir %v", got)
	}
	if got, ok := heir(servers, peers[:4], "s1"); ok {
		t.Errorf("heir %v has no room", got)
	}
}

// startRoomy starts a server whose free space a test sets, in MiB.
func startRoomy(t *testing.T, g *gossip, name string, free *atomic.Uint64) *server {
	t.Helper()
	conf := testConfig(t, g, name, t.TempDir(), 3)
	free.Store(10_000)
	conf.space = func(string) (space, error) { return space{free.Load() << 20, 100 << 30}, nil }
	return open(t, conf)
}

// A leader whose disk fills up hands over to a server with room; one whose disk is full
// neither writes nor leads; when there is room, it goes on by itself.
func TestFillingDisks(t *testing.T) {
	g := newGossip()
	var servers []*server
	free := make(map[*server]*atomic.Uint64)
	for _, name := range []string{"s1", "s2", "s3"} {
		f := new(atomic.Uint64)
		s := startRoomy(t, g, name, f)
		servers, free[s] = append(servers, s), f
	}
	first := leader(t, servers...)
	free[first].Store(200)
	eventually(t, "leadership is handed over", func() bool {
		p, ok := first.Leader()
		return ok && p.Name != first.name && !first.IsLeader()
	})
	if err := first.Ready(); !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "disk of server "+first.name+" is low") {
		t.Errorf("a server with little room says %v", err)
	}
	rest := without(servers, first)
	propose(t, rest, "one")
	eventually(t, "it follows", func() bool { return slices.Contains(first.fsm.all(), `"one"`) })

	// All have little room: better a leader with little than none.
	for _, s := range rest {
		free[s].Store(150)
	}
	propose(t, servers, "two")

	// A full leader refuses, without a doubt about the outcome, and does not come back.
	full := leader(t, servers...)
	free[full].Store(20)
	eventually(t, "writes are refused", func() bool {
		_, err := full.Propose(t.Context(), command(t, "refused"))
		if errors.Is(err, ErrOutcomeUnknown) && errors.Is(err, errNoRoom) {
			t.Errorf("the outcome of a refusal is left open: %v", err)
		}
		return err != nil
	})
	rest = without(servers, full)
	eventually(t, "another leads", func() bool { return rest[0].IsLeader() || rest[1].IsLeader() })
	propose(t, rest, "three")
	if full.Err() != nil {
		t.Errorf("a full disk is no failed disk: %v", full.Err())
	}
	if slices.Contains(full.fsm.all(), `"three"`) {
		t.Error("a server with a full disk wrote an entry")
	}
	free[full].Store(10_000)
	eventually(t, "it goes on", func() bool { return slices.Contains(full.fsm.all(), `"three"`) })
	eventually(t, "it is ready", func() bool { return full.Ready() == nil })
	for _, s := range servers {
		if slices.Contains(s.fsm.all(), `"refused"`) {
			t.Errorf("%s has what was refused", s.name)
		}
	}
}

// Three servers, one of them on a real file system that runs full.
func TestRealDiskRunsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("SKIPPED: needs the right to mount a file system (run as root): %v", err)
	}
	g := newGossip()
	conf := testConfig(t, g, "s1", filepath.Join(dir, "raft"), 3)
	conf.DiskReserve = 8 << 20
	small := open(t, conf)
	t.Cleanup(func() { // after the server is closed, which is registered later and runs earlier
		if err := small.Close(); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	servers := []*server{small, start(t, g, "s2", t.TempDir(), 3), start(t, g, "s3", t.TempDir(), 3)}
	leader(t, servers...)
	rest := servers[1:]

	ballast := filepath.Join(dir, "ballast")
	if err := fillDisk(ballast); err != nil { // at once, and to the last byte
		t.Fatal(err)
	}
	var last string
	for i := range 20 {
		last = fmt.Sprintf("%d %s", i, strings.Repeat("x", 64<<10))
		propose(t, rest, last)
	}
	if small.IsLeader() {
		t.Error("a server with a full disk leads")
	}
	if err := small.Ready(); err == nil {
		t.Error("a server with a full disk is ready")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	caught := func(s *server) bool { return slices.Contains(s.fsm.all(), `"`+last+`"`) }
	if small.Err() == nil { // nothing was written meanwhile: it goes on by itself
		eventually(t, "the small server catches up", func() bool { return caught(small) })
		return
	}
	// Its vote or term had to be written, and was not: it starts again.
	t.Logf("the full disk stopped the server: %v", small.Err())
	if err := small.Close(); err != nil {
		t.Fatal(err)
	}
	again := testConfigAt(t, g, "s1", conf.DataDir, 3, string(small.directory.addr))
	again.DiskReserve = conf.DiskReserve
	back := open(t, again)
	eventually(t, "the small server catches up", func() bool { return caught(back) })
	if err := back.Close(); err != nil {
		t.Error(err)
	}
}

// fillDisk writes a file until there is no room for a byte more.
func fillDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for b := make([]byte, 64<<10); len(b) > 0; {
		if _, err := f.Write(b); errors.Is(err, unix.ENOSPC) {
			b = b[:len(b)/2]
		} else if err != nil {
			return err
		}
	}
	return nil
}

// A snapshot that does not fit leaves nothing behind that takes up room.
func TestIncompleteSnapshotsAreSwept(t *testing.T) {
	dir := t.TempDir()
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openStores(&c, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.disk.Close()
	left := func() []string {
		list, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	_, trans := raft.NewInmemTransport("a")
	for _, end := range []func(raft.SnapshotSink) error{raft.SnapshotSink.Cancel, raft.SnapshotSink.Close} {
		sink, err := s.snaps.Create(1, 5, 1, raft.Configuration{}, 1, trans)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sink.Write([]byte("state")); err != nil {
			t.Fatal(err)
		}
		file := sink.(*snapshotSink).SnapshotSink.(*raft.FileSnapshotSink)
		if err := os.RemoveAll(filepath.Join(dir, snapshotsDir, file.ID()+tmpSuffix, "meta.json")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, snapshotsDir, file.ID()+tmpSuffix, "meta.json"), 0o700); err != nil { // so that it cannot be written
			t.Fatal(err)
		}
		err = end(sink)
		if list := left(); len(list) > 0 {
			t.Errorf("left behind after %v: %q", err, list)
		}
	}
	c.space = func(string) (space, error) { return space{0, 100 << 30}, nil }
	if _, err := s.snaps.Create(1, 6, 1, raft.Configuration{}, 1, trans); !errors.Is(err, errNoRoom) {
		t.Errorf("a snapshot was begun on a full disk: %v", err)
	}
}

func TestSizes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const places = 8
		s := newSizes(places)
		var model []int // of entries first..
		first := uint64(rapid.IntRange(1, 20).Draw(t, "first"))
		written, replaced := int64(0), false
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			size := rapid.IntRange(0, 9).Draw(t, "size")
			next := first + uint64(len(model))
			if len(model) > 0 && rapid.Bool().Draw(t, "replaces") {
				next -= uint64(rapid.IntRange(0, len(model)).Draw(t, "by"))
				model, replaced = model[:next-first], true
			}
			s.add(next, size)
			model = append(model, size)
			written += int64(size)
		}
		room, limit := int64(rapid.IntRange(0, 60).Draw(t, "room")), uint64(rapid.IntRange(1, places).Draw(t, "limit"))
		got := s.trailing(room, limit)
		left, want := room, limit
		for n := range min(limit, uint64(len(model))) {
			if left -= int64(model[len(model)-1-int(n)]); left < 0 {
				want = n
				break
			}
		}
		if got != want && (!replaced || got != limit) { // of entries behind replaced ones the size is forgotten
			t.Fatalf("%d of %v fit into %d, said %d", want, model, room, got)
		}
		if s.sinceSnapshot() != written {
			t.Fatalf("%d bytes written, said %d", written, s.sinceSnapshot())
		}
		if s.snapshotted(); s.sinceSnapshot() != 0 {
			t.Fatal("bytes since the snapshot just made")
		}
	})
}

// The log is bounded in bytes by snapshots that come sooner and fewer entries behind
// them, and its file therefore too; a start makes the file smaller.
func TestLogFileStaysBounded(t *testing.T) {
	g := newGossip()
	conf := testConfig(t, g, "s1", t.TempDir(), 1)
	conf.maxTrailing, conf.maxUnsnapped = 1<<20, 1<<20
	s := open(t, conf)
	leader(t, s)
	data := strings.Repeat("x", 128<<10)
	path := filepath.Join(s.dir, boltFile)
	var largest int64
	const each = 16 // entries of a round: 2 MiB
	rounds := 12
	if raceDetector {
		rounds = 2
	}
	for range rounds {
		for range each {
			propose(t, []*server{s}, data)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	eventually(t, "little is kept", func() bool {
		first, err1 := s.stores.logs.FirstIndex()
		last, err2 := s.stores.logs.LastIndex()
		return err1 == nil && err2 == nil && last-first <= 3*each
	})
	written := int64(rounds) * each * int64(len(data))
	t.Logf("%d MiB written, raft.db at most %d MiB, free pages %d", written>>20, largest>>20, s.stores.bolt.Stats().FreePageN)
	if largest > 24<<20 { // twice what is kept, and bbolt's steps of 16 MiB
		t.Errorf("raft.db grew to %d bytes", largest)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Metrics())
	if got, err := registry.Gather(); err != nil || len(got) != 4 {
		t.Errorf("metrics: %v, %v", got, err)
	}
}

// Making the file smaller loses nothing, whatever is left of an attempt that was cut off.
func TestLogFileIsMadeSmaller(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 1, 400)
	if err := dropLog(dir, 1, 380); err != nil {
		t.Fatal(err)
	}
	fill(t, dir, 401, 402)
	addSnapshot(t, dir, 380)
	path := filepath.Join(dir, boltFile)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want := mustRead(t, dir)
	if err := os.WriteFile(path+compactSuffix, []byte("half of a copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Name: "s1", DataDir: dir, Logger: quiet, compactMin: 1}
	c.withDefaults()
	s, err := openStores(&c, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.disk.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB became %d KiB", before.Size()>>10, after.Size()>>10)
	if after.Size() > before.Size()/2 {
		t.Error("the file is hardly smaller")
	}
	if mustRead(t, dir) != want {
		t.Error("something is lost")
	}
	if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-made copy is still there: %v", err)
	}
}

// addSnapshot puts a snapshot into a directory.
func addSnapshot(t *testing.T, dir string, index uint64) {
	t.Helper()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsRetained, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	_, trans := raft.NewInmemTransport("a")
	sink, err := snaps.Create(1, index, 1+index/10, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write([]byte("state")); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

// The file's format is bbolt's, and its tools'.
func TestCheckedFilesAreBolts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second}) // with a stored free list
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket %d", i%3))
			if err != nil {
				return err
			}
			if i%7 == 6 {
				return tx.DeleteBucket(fmt.Appendf(nil, "bucket %d", i%3))
			}
			return b.Put(fmt.Appendf(nil, "key %d", i*i%101), make([]byte, i*97%9000))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	use, size, err := inspectBolt(path)
	if err != nil || use.used < 3 || int64(use.used)*use.pageBytes > size {
		t.Errorf("%+v of %d bytes, %v", use, size, err)
	}
}
