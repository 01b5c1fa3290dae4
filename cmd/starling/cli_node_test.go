package main

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

// checkJoinTokens makes, lists and revokes join tokens, as an operator.
func checkJoinTokens(t *testing.T) {
	t.Helper()
	var k starling.IssuedJoinToken
	out := mustCLI(t, "node", "token", "create", "--uses", "40", "--ttl", "2h", "--zone", "a", "--tag", "role=web", "--tag", "disk=ssd", "--name", "rack 7", "--json")
	if err := json.Unmarshal([]byte(out), &k); err != nil {
		t.Fatal(err)
	}
	text, err := starling.ParseJoinToken(k.Text)
	if err != nil || text.ID != k.ID || k.MaxUses != 40 || k.Zone != "a" || !maps.Equal(k.Tags, map[string]string{"role": "web", "disk": "ssd"}) {
		t.Errorf("%+v, %v", k, err)
	}
	if printed := mustCLI(t, "node", "token", "create"); !strings.Contains(printed, "for 1 machines") || !strings.Contains(printed, "sjt1.jt-") {
		t.Errorf("it prints %q", printed)
	}
	list := mustCLI(t, "node", "token", "list")
	if !strings.Contains(list, k.ID) || !strings.Contains(list, "0 of 40") || !strings.Contains(list, "disk=ssd,role=web") || strings.Contains(list, "sjt1") {
		t.Errorf("the list is %q", list)
	}
	mustCLI(t, "node", "token", "revoke", k.ID)
	if list := mustCLI(t, "node", "token", "list", "--json"); !strings.Contains(list, `"revoked": true`) || strings.Contains(list, text.Hash().Hex()) {
		t.Errorf("the list is %q", list)
	}
}

// checkNodeMistakes gives commands that cannot work, as an operator.
func checkNodeMistakes(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{exitUsage, "KEY=VALUE", []string{"node", "token", "create", "--tag", "web"}},
		{exitUsage, "as web and as db", []string{"node", "token", "create", "--tag", "role=web", "--tag", "role=db"}},
		{exitUsage, "366 days", []string{"node", "token", "create", "--ttl", "9000h"}},
		{exitUsage, "150000", []string{"node", "token", "create", "--uses", "200000"}},
		{exitUsage, "cannot be the name of a tag", []string{"node", "token", "create", "--tag", "zone=a"}},
		{exitFailed, "no join token", []string{"node", "token", "revoke", "jt-none"}},
		{exitUsage, "draining", []string{"node", "list", "--state", "asleep"}},
		{exitUsage, "worker", []string{"node", "list", "--role", "king"}},
		{exitFailed, "nobody", []string{"node", "status", "nobody"}},
		{exitFailed, "nobody", []string{"node", "drain", "nobody"}},
		{exitFailed, "nobody", []string{"node", "revoke", "nobody", "--off"}},
		{exitFailed, "nobody", []string{"node", "remove", "nobody"}},
		{exitUsage, "arguments", []string{"node", "drain"}},
		{exitUsage, "--all", []string{"operator", "gossip", "rotate-cell"}},
		{exitUsage, "--all", []string{"operator", "gossip", "rotate-cell", "c1", "--all"}},
		{exitFailed, "c99", []string{"operator", "gossip", "rotate-cell", "c99"}},
	} {
		if _, errs, code := cli(t, c.args...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("starling %s: exit %d, want %d with %q: %s", strings.Join(c.args, " "), code, c.code, c.says, errs)
		}
	}
}
