package membership

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = bytes.Repeat([]byte{7}, 32)

// logBuffer keeps log output for assertions.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func testConfig(name string, join ...string) Config {
	return Config{
		Cluster: "test",
		Node: starling.Node{
			Name: name, Region: "r1", Zone: "a", Rack: "k1", Addr: "10.0.0.1:7471",
			Roles: []starling.Role{starling.RoleMachine},
		},
		Bind:    "127.0.0.1:0",
		Key:     testKey,
		Join:    join,
		Profile: ProfileLocal,
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func start(t *testing.T, conf Config) *Pool {
	t.Helper()
	p, err := Start(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// eventually waits on Changed, and now and then without it, until ok.
func eventually(t *testing.T, p *Pool, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := p.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s: never; members: %+v", what, p.Members())
		}
	}
}

func alive(p *Pool) int {
	n := 0
	for _, m := range p.Members() {
		if m.Alive {
			n++
		}
	}
	return n
}

func TestFiveMembers(t *testing.T) {
	first := testConfig("n0")
	first.Node.Roles = starling.Roles
	first.Node.HTTP = "10.0.0.1:7470"
	first.Node.Tags = map[string]string{"role": "web", "c": "not the cluster"}
	pools := []*Pool{start(t, first)}
	for i := 1; i < 5; i++ {
		pools = append(pools, start(t, testConfig(fmt.Sprintf("n%d", i), pools[0].Addr())))
	}
	for _, p := range pools {
		eventually(t, p, "five members", func() bool { return alive(p) == 5 })
		<-p.Joined()
	}
	got := pools[4].Members()
	if !slices.IsSortedFunc(got, func(a, b starling.Node) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("not sorted: %+v", got)
	}
	want := first.Node
	want.Alive = true
	if fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("node as seen from afar\n got %+v\nwant %+v", got[0], want)
	}

	t.Run("reserved tags", func(t *testing.T) {
		if err := pools[1].SetTag("expect", "3"); err != nil {
			t.Fatal(err)
		}
		if got := pools[1].Tag("n1", "expect"); got != "3" {
			t.Errorf("own tag is %q at once", got)
		}
		eventually(t, pools[2], "tag", func() bool { return pools[2].Tag("n1", "expect") == "3" })
		if got := pools[2].Reserved()["n1"]; len(got) != 1 || got["expect"] != "3" {
			t.Errorf("reserved tags %v", got)
		}
		for _, m := range pools[2].Members() {
			if m.Name == "n1" && len(m.Tags) != 0 {
				t.Errorf("a reserved tag shows among the free ones: %v", m.Tags)
			}
		}
		if err := pools[1].SetTag("long", strings.Repeat("x", 600)); !starling.IsInvalid(err) {
			t.Errorf("tag of 600 bytes: %v", err)
		}
		if err := pools[1].SetTag("expect", ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, pools[2], "tag gone", func() bool { return pools[2].Tag("n1", "expect") == "" })
	})

	t.Run("leave", func(t *testing.T) {
		if err := pools[3].Leave(); err != nil {
			t.Fatal(err)
		}
		eventually(t, pools[0], "n3 left", func() bool { return pools[0].State("n3") == StateLeft && alive(pools[0]) == 4 })
	})

	t.Run("failure", func(t *testing.T) {
		if err := pools[4].Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, pools[0], "n4 failed", func() bool { return pools[0].State("n4") == StateFailed && alive(pools[0]) == 3 })
		if err := pools[0].ForceLeave("n1"); err == nil {
			t.Error("a live member was forced to leave")
		}
		if err := pools[0].ForceLeave("nobody"); err == nil {
			t.Error("a stranger was forced to leave")
		}
		if err := pools[0].ForceLeave("n4"); err != nil {
			t.Fatal(err)
		}
		eventually(t, pools[1], "n4 gone", func() bool { return pools[1].State("n4") == StateLeft })
	})
}

func TestReturnsAtAnotherAddress(t *testing.T) {
	a := start(t, testConfig("a"))
	b := start(t, testConfig("b", a.Addr()))
	eventually(t, a, "two members", func() bool { return alive(a) == 2 })
	old := b.Addr()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	conf := testConfig("b", a.Addr())
	conf.Node.Addr = "10.0.0.2:9999"
	b = start(t, conf)
	if b.Addr() == old {
		t.Skip("the kernel gave the same port again")
	}
	eventually(t, a, "b at its new address", func() bool {
		m := a.Members()
		return len(m) == 2 && m[1].Alive && m[1].Addr == "10.0.0.2:9999"
	})
}

// A process that was killed knows whom to join, though nobody is configured.
func TestRejoinsWhomItKnew(t *testing.T) {
	a := start(t, testConfig("a"))
	conf := testConfig("b", a.Addr())
	conf.PeersFile = filepath.Join(t.TempDir(), "gossip", "peers.json")
	b := start(t, conf)
	eventually(t, b, "two members", func() bool { return alive(b) == 2 })
	eventually(t, b, "a remembered", func() bool {
		peers, err := readPeers(conf.PeersFile)
		return err == nil && len(peers) == 1 && peers[0] == a.Addr()
	})
	if err := b.Close(); err != nil { // without Leave: the others find it dead
		t.Fatal(err)
	}
	eventually(t, a, "b found dead", func() bool { return a.State("b") == StateFailed })
	conf.Join = nil
	b = start(t, conf)
	eventually(t, b, "two members again", func() bool { return alive(b) == 2 })
	<-b.Joined()
	eventually(t, a, "b alive again", func() bool { return a.State("b") == StateAlive })
}

// The list of peers changes with those that are lost, not with all that come and go.
func TestPeersAreKeptWhileTheyLive(t *testing.T) {
	a := start(t, testConfig("a"))
	b := start(t, testConfig("b", a.Addr()))
	eventually(t, a, "two members", func() bool { return alive(a) == 2 })
	peers, news := a.choosePeers(nil)
	if !news || len(peers) != 1 || peers[0] != b.Addr() {
		t.Fatalf("peers %v, news %v", peers, news)
	}
	if again, news := a.choosePeers(peers); news || len(again) != 1 {
		t.Errorf("the same members are news: %v", again)
	}
	if rest, news := a.choosePeers([]string{"127.0.0.1:1", b.Addr()}); !news || len(rest) != 1 {
		t.Errorf("a lost peer is kept: %v, %v", rest, news)
	}
}

func TestJoinRetriesUntilSomebodyIsThere(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	var logs logBuffer
	conf := testConfig("a", addr)
	conf.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	a := start(t, conf)
	eventually(t, a, "a failed join in the log", func() bool { return strings.Contains(logs.String(), "cannot join") })
	select {
	case <-a.Joined():
		t.Fatal("joined nobody")
	default:
	}
	late := testConfig("b")
	late.Bind = addr
	b := start(t, late)
	eventually(t, b, "two members", func() bool { return alive(b) == 2 })
	<-a.Joined()
}

// All whom a pool joins by stop in good order and start again, knowing nobody: the others
// find them in seconds, not at their next look a minute later.
func TestSeedsThatReturnAreFound(t *testing.T) {
	a := start(t, testConfig("a"))
	b := start(t, testConfig("b", a.Addr()))
	c := start(t, testConfig("c", a.Addr()))
	eventually(t, b, "three members", func() bool { return alive(b) == 3 && alive(c) == 3 })
	if err := a.Leave(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Pool{b, c} {
		eventually(t, p, "a gone", func() bool { return alive(p) == 2 })
	}
	again := testConfig("a")
	again.Bind = a.Addr()
	a = start(t, again)
	began := time.Now()
	eventually(t, a, "three members again", func() bool { return alive(a) == 3 })
	if took := time.Since(began); took > 15*time.Second { // of 30 to 90
		t.Errorf("found after %s", took)
	}
}

// Two that join by each other are killed and start again at once: they find who joined by
// them, and took them for alive all the time.
func TestSeedsThatRestartFindTheOthers(t *testing.T) {
	dir := t.TempDir()
	conf := func(name string, join ...string) Config {
		c := testConfig(name, join...)
		c.PeersFile = filepath.Join(dir, name, "peers.json")
		return c
	}
	a := start(t, conf("a"))
	b := start(t, conf("b", a.Addr()))
	c := start(t, conf("c", a.Addr(), b.Addr()))
	seeds := []*Pool{a, b}
	for _, p := range seeds {
		eventually(t, p, "three members remembered", func() bool {
			peers, err := readPeers(filepath.Join(dir, p.conf.Node.Name, "peers.json"))
			return err == nil && len(peers) == 2
		})
	}
	for _, p := range seeds {
		if err := p.Close(); err != nil { // without Leave
			t.Fatal(err)
		}
	}
	began := time.Now()
	for i, p := range seeds {
		again := conf(p.conf.Node.Name, seeds[1-i].Addr())
		again.Bind = p.Addr()
		seeds[i] = start(t, again)
	}
	for _, p := range seeds {
		eventually(t, p, "three members again", func() bool { return alive(p) == 3 })
	}
	if took := time.Since(began); took > 10*time.Second { // memberlist's next exchange is 30 s away
		t.Errorf("found after %s", took)
	}
	if alive(c) != 3 {
		t.Errorf("c sees %d", alive(c))
	}
}

func TestOwnAddressIsNoJoin(t *testing.T) {
	a := start(t, testConfig("a"))
	if n, err := a.Join([]string{a.Addr()}); n != 0 || err != nil {
		t.Errorf("joined itself: %d, %v", n, err)
	}
	if _, err := a.Join([]string{"1:2:3"}); !starling.IsInvalid(err) {
		t.Errorf("malformed address: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	home := start(t, testConfig("home"))
	tests := map[string]struct {
		change func(*Config)
		text   string // in the error
	}{
		"another cluster": {func(c *Config) { c.Cluster = "other" }, "cluster"},
		"another region":  {func(c *Config) { c.Node.Region = "r2" }, "region"},
		"another key":     {func(c *Config) { c.Key = bytes.Repeat([]byte{9}, 32) }, ""},
		"no key":          {func(c *Config) { c.Key, c.Plaintext = nil, true }, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conf := testConfig("stranger")
			tc.change(&conf)
			p := start(t, conf)
			_, err := p.Join([]string{home.Addr()})
			if err == nil {
				t.Fatal("joined")
			}
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error does not speak of the %s: %v", tc.text, err)
			}
			if home.State("stranger") != StateUnknown || len(home.Members()) != 1 || len(p.Members()) != 1 {
				t.Errorf("members: %+v and %+v", home.Members(), p.Members())
			}
		})
	}
}

func TestKeyRotation(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a", "keyring")
	conf := testConfig("a")
	conf.KeyringFile = file
	a := start(t, conf)
	b := start(t, testConfig("b", a.Addr()))
	eventually(t, a, "two members", func() bool { return alive(a) == 2 })
	eventually(t, b, "two members", func() bool { return alive(b) == 2 })

	next := bytes.Repeat([]byte{8}, 16)
	if _, err := a.InstallKey([]byte("short")); !starling.IsInvalid(err) {
		t.Errorf("key of 5 bytes: %v", err)
	}
	if _, err := a.UseKey(next); err == nil {
		t.Error("used a key that is not installed")
	}
	for _, step := range []func([]byte) (KeyReport, error){a.InstallKey, a.UseKey} {
		if r, err := step(next); err != nil || r.Answered != 2 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if _, err := a.RemoveKey(testKey); err != nil {
		t.Fatal(err)
	}
	r, err := b.Keys()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Keys) != 1 || r.Keys[encodeKey(next)] != 2 || r.Primary[encodeKey(next)] != 2 {
		t.Errorf("keys after the rotation: %+v", r)
	}

	// The keyring file goes before the configured key, which is no longer accepted.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	conf.Join = []string{b.Addr()}
	a = start(t, conf)
	eventually(t, a, "two members again", func() bool { return alive(a) == 2 })
	old := start(t, testConfig("old"))
	if _, err := old.Join([]string{b.Addr()}); err == nil {
		t.Error("joined with a key that was removed")
	}
}

func TestStartRefuses(t *testing.T) {
	busy := start(t, testConfig("busy"))
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*Config)
		text   string
	}{
		"busy port":        {func(c *Config) { c.Bind = busy.Addr() }, "in use by another process"},
		"host name bound":  {func(c *Config) { c.Bind = "localhost:0" }, "want an IP address"},
		"bad port":         {func(c *Config) { c.Bind = "127.0.0.1:70000" }, "port"},
		"bad advertise":    {func(c *Config) { c.Advertise = "1:2:3" }, "advertise"},
		"short key":        {func(c *Config) { c.Key = []byte("short") }, "16, 24 or 32"},
		"no key":           {func(c *Config) { c.Key = nil }, "gossip_key"},
		"key and plain":    {func(c *Config) { c.Plaintext = true }, "plain text"},
		"no cluster":       {func(c *Config) { c.Cluster = "" }, "cluster"},
		"bad name":         {func(c *Config) { c.Node.Name = "A_b" }, "name"},
		"bad region":       {func(c *Config) { c.Node.Region = "" }, "region"},
		"bad role":         {func(c *Config) { c.Node.Roles = []starling.Role{"king"} }, "king"},
		"empty tag":        {func(c *Config) { c.Node.Tags = map[string]string{"": "x"} }, "empty name"},
		"long tags":        {func(c *Config) { c.Node.Tags = map[string]string{"x": strings.Repeat("y", 500)} }, "of the 512"},
		"unknown profile":  {func(c *Config) { c.Profile = "moon" }, "profile"},
		"too many to join": {func(c *Config) { c.Join = make([]string, maxJoinAddrs+1) }, "join"},
		"no logger":        {func(c *Config) { c.Logger = nil }, "Logger"},
		"peers no file":    {func(c *Config) { c.PeersFile = dir }, "peers"},
		"broken peers":     {func(c *Config) { c.PeersFile = broken }, "JSON list"},
		"broken keyring":   {func(c *Config) { c.KeyringFile = broken }, "JSON list"},
		"no keyring":       {func(c *Config) { c.KeyringFile, c.Key = filepath.Join(dir, "none"), nil }, "no keyring"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			conf := testConfig("x")
			tc.change(&conf)
			p, err := Start(conf)
			if err == nil {
				p.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %q lacks %q", err, tc.text)
			}
		})
	}
}

func TestPlaintextHasNoKeyring(t *testing.T) {
	conf := testConfig("a")
	conf.Key, conf.Plaintext = nil, true
	p := start(t, conf)
	if _, err := p.Keys(); err == nil {
		t.Error("keys of a plain-text pool")
	}
}

func TestLogLevels(t *testing.T) {
	var logs logBuffer
	l := newLog(slog.New(slog.NewTextHandler(&logs, nil)))
	l.Print("[DEBUG] serf: hidden")
	l.Print("[WARN] memberlist: seen")
	l.Print("[ERR] serf: bad")
	l.Print("plain")
	got := logs.String()
	for _, want := range []string{"level=WARN msg=\"memberlist: seen\"", "level=ERROR msg=\"serf: bad\"", "level=INFO msg=plain"} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "hidden") {
		t.Errorf("a debug line came through:\n%s", got)
	}
}
