package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// A server does not start on a damaged log, and says what to do; done so, it joins as a
// new server, gets everything, and votes again.
func TestServerWithDamagedDataIsReplaced(t *testing.T) {
	c := inProcess(t, world.Size{Regions: 1, Servers: 3, Caches: 1, Workers: 1, Machines: 1})
	servers := c.w.WithRole(starling.RoleServer)
	victim, other := servers[0], c.client(servers[1])
	c.apply(other, newRepo(t).app("hello", nil))
	c.end(victim.Name)

	dir := filepath.Join(filepath.Dir(victim.Config), "data", "raft")
	info, err := os.Stat(filepath.Join(dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "raft.db"), info.Size()/2); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig([]string{victim.Config})
	if err == nil {
		err = cfg.finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, runAgent(t.Context(), cfg, logTo(t, victim.Log), nil), starling.ErrCorrupt, "away and start again")

	if err := os.Rename(dir, dir+".damaged"); err != nil {
		t.Fatal(err)
	}
	c.run(victim)
	c.eventually(2*time.Minute, func() error {
		peers, err := other.RaftPeers(t.Context())
		if err != nil {
			return err
		}
		votes := 0
		for _, p := range peers {
			if p.Voter {
				votes++
			}
		}
		if votes != 3 || len(peers) != 3 {
			return fmt.Errorf("peers %+v", peers)
		}
		app, err := c.client(victim).App(t.Context(), "hello")
		if err == nil && app.Name != "hello" {
			err = errors.New("another app")
		}
		return err
	})
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil {
		t.Error(err)
	}
}
