package raftnode

import (
	"testing"
	"time"
)

// Gossip may tell late that the servers which begin a cluster admit each other, and may
// hold up whoever announces it. The first leader must not take the others for servers that
// lost their data: they would have no vote for a while, and the cluster no second server.
func TestSlowGossipCostsNoVote(t *testing.T) {
	g := newGossip()
	var servers []*server
	for _, name := range []string{"s1", "s2", "s3"} {
		conf := testConfig(t, g, name, t.TempDir(), 3)
		set := conf.SetTag
		conf.SetTag = func(k, v string) error {
			switch k {
			case tagAdmit: // it is announced, and nobody hears of it
				time.Sleep(2 * testTiming().Election)
				return nil
			case tagFresh:
				if v == "" { // heard of long after
					time.AfterFunc(time.Second, func() { _ = set(k, v) })
					return nil
				}
			}
			return set(k, v)
		}
		servers = append(servers, open(t, conf))
	}
	l := leader(t, servers...)
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got := voters(t, l); got != "s1 s2 s3" {
			t.Fatalf("voters %q", got)
		}
	}
}
