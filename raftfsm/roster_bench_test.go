package raftfsm

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// enrolments returns the log of n machines that enrol, in racks of 40 and three zones, in
// no order, batch of them in an entry.
func enrolmentLog(t testing.TB, n, batch int) [][]byte {
	t.Helper()
	d := newDriver(t)
	hash := starling.DigestOf([]byte("s"))
	log := [][]byte{entryOf(t, d.cmd(TypeJoinTokenCreate, JoinTokenCreate{starling.JoinToken{
		ID: "jt1", Hash: hash, MaxUses: starling.MaxMachinesPerRegion, ExpiresAt: epoch.AddDate(0, 1, 0), Tags: map[string]string{"role": "web"},
	}}))}
	var cmds []Command
	for i := range n {
		m := i * 7919 % n // 7919 is prime: each once
		cmds = append(cmds, d.cmd(TypeMachineEnrol, MachineEnrol{
			MachineFacts: MachineFacts{
				Name: fmt.Sprintf("m%06d", m), Zone: string(rune('a' + m/40%3)), Rack: fmt.Sprintf("r%d", m/40),
				Gossip: fmt.Sprintf("10.%d.%d.%d:7473", m>>16, m>>8&255, m&255), Tags: map[string]string{"disk": "ssd"},
			},
			Key: starling.DigestOf([]byte{byte(m), byte(m >> 8), byte(m >> 16)}), Token: "jt1", Hash: hash, Max: starling.MaxCellMachines,
		}))
		if len(cmds) == batch || i == n-1 {
			log = append(log, entryOf(t, cmds...))
			cmds = nil
		}
	}
	return log
}

func replayed(t testing.TB, log [][]byte) *FSM {
	t.Helper()
	f := New("region-0")
	for i, data := range log {
		for _, r := range f.Apply(&raft.Log{Index: uint64(i + 1), Data: data}).([]Result) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	return f
}

// BenchmarkEnrol: go test ./raftfsm -run - -bench Enrol -benchtime 1x
func BenchmarkEnrol(b *testing.B) {
	const n = 100_000
	for _, batch := range []int{1, MaxEntryCommands} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			log := enrolmentLog(b, n, batch)
			for b.Loop() {
				begin := time.Now()
				f := replayed(b, log)
				b.ReportMetric(n/time.Since(begin).Seconds(), "machines/s")
				b.ReportMetric(float64(len(f.View().Cells())), "cells")
			}
		})
	}
}

// 100,000 machines in one region fit into 100 MB, and their snapshot is taken in seconds.
func TestTheRosterStaysSmall(t *testing.T) {
	n := 100_000
	if rounds == 1 || testing.Short() { // times and sizes mean nothing with the race detector
		n = 5_000
	}
	f := replayed(t, enrolmentLog(t, n, MaxEntryCommands))
	var b bytes.Buffer
	if err := f.View().WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	m := measure(t, b.Bytes())
	t.Logf("%d machines: %d bytes each in memory, %d in a snapshot; restored in %v, persisted in %v", n, m.heapBytes/uint64(n), b.Len()/n, m.restore, m.persist)
	if limit := uint64(1_000_000 + 990*n); m.heapBytes > limit {
		t.Errorf("%d bytes in memory, more than %d", m.heapBytes, limit)
	}
	if m.persist > 20*time.Second || m.pause > time.Second {
		t.Errorf("persisted in %v, Apply waited %v", m.persist, m.pause)
	}
	for _, c := range f.View().Cells() {
		if c.Machines > starling.MaxCellMachines {
			t.Errorf("%+v", c)
		}
	}
	largest := f.View().Cells()[0]
	begin := time.Now()
	c, err := NewCommand(TypeCellSplit, epoch, "", CellSplit{largest.Name, largest.Version})
	if err != nil {
		t.Fatal(err)
	}
	r := f.Apply(&raft.Log{Index: f.View().Index() + 1, Data: entryOf(t, c)}).([]Result)[0]
	if took := time.Since(begin); r.Err != nil || took > time.Second {
		t.Errorf("a cell of %d was split in %v: %v", largest.Machines, took, r.Err)
	} else {
		t.Logf("a cell of %d was split in %v", largest.Machines, took)
	}
}
