package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// faulty are files that fail when a test says so.
type faulty struct {
	files
	mu    sync.Mutex
	write func(op string) error // before the write; not nil: it fails
	read  func(*raft.Log)       // changes what was read
}

func (f *faulty) set(write func(string) error, read func(*raft.Log)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write, f.read = write, read
}

func (f *faulty) fails(op string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.write == nil {
		return nil
	}
	return f.write(op)
}

func (f *faulty) StoreLogs(l []*raft.Log) error {
	if err := f.fails("log"); err != nil {
		return err
	}
	return f.files.StoreLogs(l)
}

func (f *faulty) Set(k, v []byte) error {
	if err := f.fails("state"); err != nil {
		return err
	}
	return f.files.Set(k, v)
}

func (f *faulty) DeleteRange(a, b uint64) error {
	if err := f.fails("delete"); err != nil {
		return err
	}
	return f.files.DeleteRange(a, b)
}

func (f *faulty) GetLog(i uint64, l *raft.Log) error {
	err := f.files.GetLog(i, l)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.read != nil {
		f.read(l)
	}
	return err
}

// fragile is a server whose disk a test can break.
type fragile struct {
	*server
	disk *faulty
}

func startFragile(t *testing.T, g *gossip, name, dir string, expect int) *fragile {
	t.Helper()
	conf := testConfig(t, g, name, dir, expect)
	f := &fragile{disk: &faulty{}}
	conf.faults = func(under files) files { f.disk.files = under; return f.disk }
	f.server = open(t, conf)
	return f
}

func fragileCluster(t *testing.T, g *gossip, names ...string) ([]*fragile, []*server) {
	t.Helper()
	var out []*fragile
	var servers []*server
	for _, name := range names {
		f := startFragile(t, g, name, t.TempDir(), len(names))
		out, servers = append(out, f), append(servers, f.server)
	}
	return out, servers
}

func fragileOf(all []*fragile, s *server) *fragile {
	return all[slices.IndexFunc(all, func(f *fragile) bool { return f.server == s })]
}

// checkFailed waits until a server has stopped because of its disk.
func checkFailed(t *testing.T, s *server, want error) {
	t.Helper()
	eventually(t, "the server stops", func() bool {
		select {
		case <-s.Failed():
			return true
		default:
			return false
		}
	})
	err := s.Err()
	if !errors.Is(err, want) || !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "the disk of server "+s.name+" failed") {
		t.Errorf("the server says %v", err)
	}
	if err := s.Ready(); err == nil {
		t.Error("a server whose disk failed says that it is ready")
	}
	if _, err := s.Propose(t.Context(), command(t, "refused")); !errors.Is(err, want) {
		t.Errorf("proposed to a server whose disk failed: %v", err)
	}
	if s.IsLeader() {
		t.Error("a server whose disk failed leads")
	}
}

// A leader whose disk fails stops; the others lead on with everything acknowledged.
func TestFailedWriteEndsLeadership(t *testing.T) {
	for op, what := range map[string]error{"log": unix.EIO, "log full": unix.ENOSPC} {
		t.Run(op, func(t *testing.T) {
			g := newGossip()
			all, servers := fragileCluster(t, g, "s1", "s2", "s3")
			leader(t, servers...)
			first := propose(t, servers, "acknowledged")
			fragileOf(all, first).disk.set(func(op string) error {
				if op == "log" {
					return what
				}
				return nil
			}, nil)
			if _, err := first.Propose(t.Context(), command(t, "fails")); err == nil {
				t.Error("acknowledged what was not written")
			}
			checkFailed(t, first, what)
			rest := without(servers, first)
			leader(t, rest...)
			propose(t, rest, "after")
			if err := first.Close(); err != nil {
				t.Error(err)
			}
			back := restart(t, g, first, first.dir)
			eventually(t, "the server is back", func() bool {
				all := back.fsm.all()
				return slices.Contains(all, `"acknowledged"`) && slices.Contains(all, `"after"`)
			})
		})
	}
}

// A server that cannot save its term or vote neither votes nor brings the process down.
func TestFailedVoteStopsTheServer(t *testing.T) {
	g := newGossip()
	all, servers := fragileCluster(t, g, "s1", "s2", "s3")
	first := leader(t, servers...)
	rest := without(servers, first)
	bad := rest[0]
	fragileOf(all, bad).disk.set(func(op string) error {
		if op == "state" {
			return unix.EIO
		}
		return nil
	}, nil)
	g.set(first.name, PeerFailed)
	if err := first.Close(); err != nil { // so that a term begins
		t.Fatal(err)
	}
	checkFailed(t, bad, unix.EIO)
}

// An entry that went bad on the leader's disk is not sent, the leader stops, and the
// next one sends its own.
func TestDamagedEntryIsNotReplicated(t *testing.T) {
	g := newGossip()
	all, servers := fragileCluster(t, g, "s1", "s2", "s3")
	first := leader(t, servers...)
	late := without(servers, first)[0]
	g.set(late.name, PeerFailed)
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	rest := without(servers, late)
	const entries = logCacheEntries + 100
	for i := range entries {
		if _, err := first.Propose(t.Context(), command(t, i)); err != nil {
			t.Fatal(err)
		}
	}
	fragileOf(all, first).disk.set(nil, func(l *raft.Log) {
		if l.Type == raft.LogCommand && l.Index%64 == 0 {
			l.Data[len(l.Data)/2] ^= 1
		}
	})
	back := restart(t, g, late, late.dir)
	checkFailed(t, first, starling.ErrCorrupt)
	rest = append(without(rest, first), back)
	leader(t, rest...)
	eventually(t, "the late server has everything", func() bool { return len(back.fsm.all()) >= entries })
	for i, got := range back.fsm.all()[:entries] {
		if got != fmt.Sprint(i) {
			t.Fatalf("entry %d is %s", i, got)
		}
	}
}

// An entry that went bad on a follower's disk is not applied.
func TestDamagedEntryIsNotApplied(t *testing.T) {
	g := newGossip()
	s := start(t, g, "s1", t.TempDir(), 1)
	leader(t, s)
	propose(t, []*server{s}, "good")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conf := testConfig(t, g, "s1", s.dir, 1)
	disk := &faulty{}
	conf.faults = func(under files) files { disk.files = under; return disk }
	reads := 0
	disk.set(nil, func(l *raft.Log) {
		if reads++; l.Type == raft.LogCommand && reads > 4 { // it went bad after the check at the start
			l.Data[0] ^= 1
		}
	})
	n, err := Open(conf)
	if err == nil {
		back := &server{Node: n, name: "s1", dir: s.dir, fsm: conf.FSM.(*fsm)}
		checkFailed(t, back, starling.ErrCorrupt)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if got := back.fsm.all(); len(got) > 0 {
			t.Errorf("applied %q", got)
		}
	} else if !errors.Is(err, starling.ErrCorrupt) {
		t.Error(err)
	}
}

// No single bit that flips in an entry's stored form goes unseen.
func TestEveryBitOfAnEntryCounts(t *testing.T) {
	e := raft.Log{Index: 7, Term: 3, Type: raft.LogCommand, Data: []byte(`{"v":1,"commands":[]}`)}
	e.Extensions = entrySeal(&e)
	var stored bytes.Buffer
	handle := &codec.MsgpackHandle{}
	if err := codec.NewEncoder(&stored, handle).Encode(e); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for bit := range stored.Len() * 8 {
		b := bytes.Clone(stored.Bytes())
		b[bit/8] ^= 1 << (bit % 8)
		var got raft.Log
		if err := codec.NewDecoderBytes(b, handle).Decode(&got); err != nil {
			seen++
			continue
		}
		if _, err := checkEntry(7, &got); err != nil {
			seen++
		} else if got.Index != e.Index || got.Term != e.Term || got.Type != e.Type || !bytes.Equal(got.Data, e.Data) {
			t.Errorf("bit %d of %q flipped, and %+v was accepted", bit, stored.Bytes(), got)
		}
	}
	t.Logf("%d of %d flips were seen, the others changed nothing that counts", seen, stored.Len()*8)
	if seen < stored.Len()*4 {
		t.Error("hardly any were seen")
	}
}

func TestEveryBitOfAValueCounts(t *testing.T) {
	key, value := []byte("LastVoteTerm"), []byte{0, 0, 0, 0, 0, 0, 1, 2}
	stored := sealValue(key, value)
	if got, err := openValue(key, stored); err != nil || !bytes.Equal(got, value) {
		t.Fatalf("%x, %v", got, err)
	}
	if got, err := openValue(key, value); err != nil || !bytes.Equal(got, value) {
		t.Errorf("a value by an older program: %x, %v", got, err)
	}
	for bit := range len(stored) * 8 {
		b := bytes.Clone(stored)
		b[bit/8] ^= 1 << (bit % 8)
		// A number whose mark is damaged is too long, see stable.GetUint64.
		if got, err := openValue(key, b); err == nil && len(got) == len(value) {
			t.Errorf("bit %d flipped, and %x was accepted", bit, got)
		}
	}
	if _, err := openValue([]byte("CurrentTerm"), stored); err == nil {
		t.Error("the value of another key was accepted")
	}
}
