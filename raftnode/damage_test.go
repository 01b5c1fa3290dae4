package raftnode

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/starlingdeploy/starling"
)

// stored is what a directory holds, as Raft would read it.
type stored struct {
	Entries []raft.Log
	Term    uint64
	State   string // of the newest snapshot
}

// read opens a directory as a server does, and reads all of it.
func read(dir string) (out stored, err error) {
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openStores(&c, &hlog{to: quiet})
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.disk.Close()) }()
	first, err1 := s.logs.FirstIndex()
	last, err2 := s.logs.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return out, err
	}
	for i := first; i > 0 && i <= last; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return out, err
		}
		l.Extensions, l.AppendedAt = nil, l.AppendedAt.UTC()
		out.Entries = append(out.Entries, raft.Log{Index: l.Index, Term: l.Term, Type: l.Type, Data: l.Data})
	}
	if out.Term, err = s.stable.GetUint64([]byte("CurrentTerm")); err != nil {
		return out, err
	}
	list, err := s.snaps.List()
	if err != nil || len(list) == 0 {
		return out, err
	}
	_, state, err := s.snaps.Open(list[0].ID)
	if err != nil {
		return out, err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(state)
	out.State = list[0].ID + b.String()
	return out, errors.Join(err, state.Close())
}

// fill makes a directory with entries of many sizes, and returns what it holds.
func fill(t *testing.T, dir string, first, last uint64) {
	t.Helper()
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openUnchecked(&c, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	for i := first; i <= last; i++ {
		l := &raft.Log{Index: i, Term: 1 + i/10, Type: raft.LogCommand, Data: content(i)}
		if err := s.logs.StoreLogs([]*raft.Log{l}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.stable.SetUint64([]byte("CurrentTerm"), last); err != nil {
		t.Fatal(err)
	}
	if err := s.disk.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, dir string) string {
	t.Helper()
	out, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return asText(t, out)
}

func asText(t *testing.T, s stored) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// copyDir copies a directory tree.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// Whatever single bit of raft.db flips, the server refuses to start, or what it reads is
// what was written. So for files cut short, and pages that were lost or written wrong.
func TestDamagedLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 1, 60)
	want := mustRead(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, boltFile))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	random := rand.New(rand.NewPCG(1, 2))
	damage := make(map[string][]byte)
	for range 300 {
		bit := random.IntN(len(whole) * 8)
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		damage[fmt.Sprintf("bit %d flipped", bit)] = b
	}
	for n := 0; n*page < len(whole); n++ {
		zero, wrong := bytes.Clone(whole), bytes.Clone(whole)
		clear(zero[n*page:][:page])
		for i := range page {
			wrong[n*page+i] = byte(random.Uint32())
		}
		half := bytes.Clone(whole)
		clear(half[n*page+page/2:][:page/2])
		damage[fmt.Sprintf("page %d zero", n)] = zero
		damage[fmt.Sprintf("page %d garbled", n)] = wrong
		damage[fmt.Sprintf("half of page %d zero", n)] = half
		damage[fmt.Sprintf("cut before page %d", n)] = whole[:n*page]
		damage[fmt.Sprintf("cut within page %d", n)] = whole[:n*page+page/3]
	}
	misplaced := bytes.Clone(whole) // entries where the root should be
	root, leaf := pagesOf(t, whole, page)
	copy(misplaced[root*page:][:page], whole[leaf*page:])
	binary.NativeEndian.PutUint64(misplaced[root*page:], uint64(root))
	damage["page of entries in place of the root"] = misplaced
	refused, n := 0, 0
	to := t.TempDir()
	for what, b := range damage {
		if n++; raceDetector && n%5 != 0 {
			continue // it is about bytes, not about races
		}
		if len(b) == 0 {
			continue // no file: a server without data, see TestNastySchedule
		}
		if err := os.WriteFile(filepath.Join(to, boltFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read(to)
		switch {
		case err == nil && strings.HasPrefix(what, "page of entries"):
			t.Errorf("%s: the server starts", what)
		case err == nil && asText(t, got) != want:
			t.Errorf("%s: the server starts with other data than was written", what)
		case err != nil && !errors.Is(err, starling.ErrCorrupt):
			t.Errorf("%s: %v", what, err)
		case err != nil:
			refused++
			if !strings.Contains(err.Error(), "move "+to+" away") {
				t.Errorf("%s: the error does not say what to do: %v", what, err)
			}
		}
	}
	t.Logf("%d of %d damaged files were refused; the damage of the others lay in free space", refused, len(damage))
}

// pagesOf finds the root of a file, and a page of log entries.
func pagesOf(t *testing.T, whole []byte, page int) (root, leaf int) {
	t.Helper()
	u64 := binary.NativeEndian.Uint64
	meta := whole[boltHeadBytes:]
	if other := whole[page+boltHeadBytes:]; u64(other[48:]) > u64(meta[48:]) {
		meta = other
	}
	root = int(u64(meta[16:]))
	for i := 2; i < len(whole)/page; i++ {
		b := whole[i*page:]
		// An element with a key of 8 bytes that is no bucket.
		if i != root && u64(b) == uint64(i) && binary.NativeEndian.Uint16(b[8:]) == boltLeaf && binary.NativeEndian.Uint32(b[12:]) == 0 &&
			binary.NativeEndian.Uint16(b[10:]) > 0 && binary.NativeEndian.Uint32(b[24:]) == 8 && binary.NativeEndian.Uint32(b[16:]) == 0 {
			return root, i
		}
	}
	t.Fatal("no page of entries")
	return 0, 0
}

// A process that is killed while it writes leaves a file that has every entry which was
// acknowledged, and at most the one after.
func TestKilledWhileWriting(t *testing.T) {
	if dir := os.Getenv("RAFTNODE_WRITE_TO"); dir != "" {
		write(t, dir)
		return
	}
	random := rand.New(rand.NewPCG(3, 4))
	most := uint64(0)
	for range 8 {
		dir := t.TempDir()
		writer := exec.Command(os.Args[0], "-test.run=^TestKilledWhileWriting$")
		writer.Env = append(os.Environ(), "RAFTNODE_WRITE_TO="+dir)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		sure, until := uint64(0), 1+uint64(random.IntN(300))
		lines := bufio.NewScanner(out)
		for sure < until && lines.Scan() {
			if sure, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
		}
		if err := writer.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it said meanwhile
			if sure, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				break // half a line
			}
		}
		if err := writer.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		got, last, err := readEntries(dir)
		if err != nil || last < sure || last > sure+1 || sure < until {
			t.Errorf("after entry %d was acknowledged the log ends at %d, %v", sure, last, err)
		}
		for _, l := range got {
			if !bytes.Equal(l.Data, content(l.Index)) {
				t.Errorf("entry %d is not what was written", l.Index)
			}
		}
		most = max(most, sure)
	}
	t.Logf("up to %d entries", most)
}

func content(index uint64) []byte { return bytes.Repeat([]byte{byte(index)}, int(index*index)%9000) }

// write appends entries, deletes old ones, and tells what is acknowledged, until it is killed.
func write(t *testing.T, dir string) {
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openStores(&c, &hlog{to: quiet})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i < 1<<20; i++ {
		if err := s.logs.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: content(i)}}); err != nil {
			t.Fatal(err)
		}
		fmt.Println(i)
		if i%50 == 0 {
			if err := s.logs.DeleteRange(1, i-40); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// readEntries reads a log without its snapshots.
func readEntries(dir string) (out []raft.Log, last uint64, err error) {
	if _, err := prepareBolt(filepath.Join(dir, boltFile), 1<<40, quiet); err != nil {
		return nil, 0, err
	}
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openUnchecked(&c, &hlog{to: quiet})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, s.disk.Close()) }()
	first, err1 := s.logs.FirstIndex()
	last, err2 := s.logs.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return nil, 0, err
	}
	for i := first; i > 0 && i <= last; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return nil, 0, err
		}
		out = append(out, l)
	}
	return out, last, nil
}

// snapshotFiles lists the files of the newest snapshot in a directory.
func snapshotFiles(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no snapshots: %v", err)
	}
	slices.SortFunc(list, func(a, b string) int { // the newest is the one with the highest index
		var t1, t2, i1, i2 uint64
		fmt.Sscanf(filepath.Base(a), "%d-%d-", &t1, &i1)
		fmt.Sscanf(filepath.Base(b), "%d-%d-", &t2, &i2)
		return int(i2) - int(i1)
	})
	var files []string
	for _, name := range []string{metaFile, sumFile, "state.bin"} {
		files = append(files, filepath.Join(list[0], name))
	}
	return files
}

// A snapshot in which a byte is wrong is not used: the server starts from the one before
// and the log, or refuses; it never starts from nothing.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	for i := range 3 {
		propose(t, []*server{s}, fmt.Sprintf("command %d", i))
		if err := s.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, []*server{s}, "in the log")
	want := s.fsm.all()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(what, dir string) {
		t.Helper()
		conf := testConfig(t, newGossip(), "s1", dir, 1)
		conf.Timing = Timing{Heartbeat: 50 * time.Millisecond, Commit: 5 * time.Millisecond}
		n, err := Open(conf)
		if err != nil {
			conf.Layer.Close()
			t.Errorf("%s: %v", what, err)
			return
		}
		back := &server{Node: n, name: "s1", dir: dir, fsm: conf.FSM.(*fsm)}
		leader(t, back)
		if got := back.fsm.all(); !slices.Equal(got, want) {
			t.Errorf("%s: the server started with %q", what, got)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	for f, name := range snapshotFiles(t, s.dir) {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := f; i < len(whole); i += max(1, len(whole)/4) {
			dir := copyDir(t, s.dir)
			bad := bytes.Clone(whole)
			bad[i] ^= 1
			if err := os.WriteFile(snapshotFiles(t, dir)[f], bad, 0o600); err != nil {
				t.Fatal(err)
			}
			check(fmt.Sprintf("bit of byte %d of %s flipped", i, filepath.Base(name)), dir)
		}
		dir := copyDir(t, s.dir)
		if err := os.Truncate(snapshotFiles(t, dir)[f], int64(len(whole)/2)); err != nil {
			t.Fatal(err)
		}
		check(filepath.Base(name)+" cut short", dir)
	}

	// A half-written one is swept away.
	dir := copyDir(t, s.dir)
	torn := filepath.Join(dir, snapshotsDir, "9-999-1"+tmpSuffix)
	if err := os.MkdirAll(torn, 0o700); err != nil {
		t.Fatal(err)
	}
	check("half-written snapshot", dir)
	if _, err := os.Stat(torn); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the half-written snapshot is still there: %v", err)
	}

	// None whole, and the log begins later or not at all.
	for what, change := range map[string]func(dir string) error{
		"no raft.db":   func(dir string) error { return os.Remove(filepath.Join(dir, boltFile)) },
		"empty log":    func(dir string) error { return dropLog(dir, 1, 1<<40) },
		"no beginning": func(dir string) error { return dropLog(dir, 1, 3) },
	} {
		dir := copyDir(t, s.dir)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if what != "no raft.db" {
			metas, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*", metaFile))
			if err != nil || len(metas) != snapshotsRetained {
				t.Fatalf("%v, %v", metas, err)
			}
			for _, m := range metas {
				if err := os.WriteFile(m, []byte("{"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		conf := testConfig(t, newGossip(), "s1", dir, 1)
		if n, err := Open(conf); err == nil {
			t.Errorf("%s: the server starts with %q", what, conf.FSM.(*fsm).all())
			n.Close()
		} else if conf.Layer.Close(); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// dropLog deletes entries of a log without looking.
func dropLog(dir string, first, last uint64) error {
	c := Config{Name: "s1", DataDir: dir, Logger: quiet}
	c.withDefaults()
	s, err := openUnchecked(&c, &hlog{to: quiet})
	if err != nil {
		return err
	}
	return errors.Join(s.disk.DeleteRange(first, last), s.disk.Close())
}

// A snapshot that went bad while the server runs is replaced by a new one.
func TestDamagedSnapshotIsReplaced(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	propose(t, []*server{s}, "one")
	if err := s.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := snapshotFiles(t, s.dir)[2]
	if err := os.Truncate(state, 1); err != nil {
		t.Fatal(err)
	}
	list, err := s.stores.snaps.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if _, _, err := s.stores.snaps.Open(list[0].ID); err == nil {
		t.Fatal("opened a damaged snapshot")
	}
	eventually(t, "a new snapshot", func() bool {
		now, err := s.stores.snaps.List()
		return err == nil && len(now) > 0 && now[0].ID != list[0].ID
	})
}

// Programs that know of no seals read what this one writes, and write what it reads.
func TestOlderProgramsReadSealedFiles(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 1, 3)
	old, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, boltFile), MsgpackUseNewTimeFormat: true})
	if err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := old.GetLog(3, &l); err != nil || !bytes.Equal(l.Data, bytes.Repeat([]byte{3}, 9)) {
		t.Errorf("%+v, %v", l, err)
	}
	if term, err := old.GetUint64([]byte("CurrentTerm")); err != nil || term != 3 {
		t.Errorf("term %d, %v", term, err)
	}
	if err := errors.Join(old.SetUint64([]byte("CurrentTerm"), 9), old.StoreLog(&raft.Log{Index: 4, Term: 9, Data: []byte("x")}), old.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := read(dir)
	if err != nil || got.Term != 9 || len(got.Entries) != 4 || string(got.Entries[3].Data) != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}
