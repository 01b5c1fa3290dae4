package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestWebhooksAndSinks(t *testing.T) {
	d := newDriver(t)
	// Tables that are empty write no line: programs of level 1 read the snapshot.
	if snap := snapshotOf(t, d.fsm); bytes.Contains(snap, []byte("webhook")) || bytes.Contains(snap, []byte("sink")) {
		t.Errorf("an empty state mentions them:\n%s", snap)
	}
	hook := starling.Webhook{Name: "push", Kind: starling.WebhookGitHub, Apps: []string{"a"}, Sealed: []byte("sealed")}
	if res := d.try(d.cmd(TypeWebhookCreate, WebhookCreate{hook}))[0]; res.Err != nil || !res.Created || res.Webhook.CreatedAt.IsZero() {
		t.Fatalf("%+v", res)
	}
	if res := d.try(d.cmd(TypeWebhookCreate, WebhookCreate{hook}))[0]; !errors.Is(res.Err, starling.ErrConflict) {
		t.Errorf("the same again: %v", res.Err)
	}
	sink := starling.Sink{Name: "chat", Kind: starling.SinkSlack, To: "https://x", Notices: []starling.Notice{"failed"}, Sealed: []byte("sealed")}
	made := d.try(d.cmd(TypeSinkCreate, SinkCreate{sink}))[0]
	if made.Err != nil || made.Sink.Made != d.index || made.Sink.Progress.Index != d.index {
		t.Fatalf("%+v", made)
	}
	for name, c := range map[string]Command{
		"no name":         d.cmd(TypeWebhookCreate, WebhookCreate{starling.Webhook{Kind: "github", Sealed: []byte("x")}}),
		"no kind":         d.cmd(TypeWebhookCreate, WebhookCreate{starling.Webhook{Name: "x", Sealed: []byte("x")}}),
		"no secret":       d.cmd(TypeWebhookCreate, WebhookCreate{starling.Webhook{Name: "x", Kind: "github"}}),
		"a large secret":  d.cmd(TypeWebhookCreate, WebhookCreate{starling.Webhook{Name: "x", Kind: "github", Sealed: make([]byte, MaxSealedBytes+1)}}),
		"no notice":       d.cmd(TypeSinkCreate, SinkCreate{starling.Sink{Name: "x", Notices: []starling.Notice{"birthday"}, Sealed: []byte("x")}}),
		"a sink unsealed": d.cmd(TypeSinkCreate, SinkCreate{starling.Sink{Name: "x"}}),
	} {
		if res := d.try(c)[0]; !starling.IsInvalid(res.Err) {
			t.Errorf("%s: %v", name, res.Err)
		}
	}

	tell := func(made, index uint64, n int, delivered uint64) starling.SinkProgress {
		t.Helper()
		d.must(d.cmd(TypeSinkProgress, SinkProgress{[]SinkTold{
			{Name: "gone", Progress: starling.SinkProgress{Index: 99}},
			{Name: "chat", Made: made, Progress: starling.SinkProgress{Index: index, N: n, Delivered: delivered}},
		}}))
		k, _ := d.fsm.View().Sink("chat")
		return k.Progress
	}
	at := made.Sink.Made
	if p := tell(at, at+5, 1, 3); p.Index != at+5 || p.Delivered != 3 {
		t.Errorf("told: %+v", p)
	}
	for name, p := range map[string]starling.SinkProgress{
		"an older place":   tell(at, at+4, 9, 9),
		"less of it":       tell(at, at+5, 0, 9),
		"fewer deliveries": tell(at, at+5, 1, 2),
		"another sink":     tell(at+1, at+50, 1, 9),
	} {
		if p.Index != at+5 || p.N != 1 || p.Delivered != 3 {
			t.Errorf("%s took effect: %+v", name, p)
		}
	}
	snap := snapshotOf(t, d.fsm)
	if got := snapshotOf(t, restored(t, d.fsm)); !bytes.Equal(got, snap) {
		t.Error("a restored state differs")
	}
	d.must(d.cmd(TypeWebhookDelete, WebhookDelete{"push"}), d.cmd(TypeSinkDelete, SinkDelete{"chat"}))
	for _, c := range []Command{d.cmd(TypeWebhookDelete, WebhookDelete{"push"}), d.cmd(TypeSinkDelete, SinkDelete{"chat"})} {
		if res := d.try(c)[0]; !errors.Is(res.Err, starling.ErrNotFound) {
			t.Errorf("deleted twice: %v", res.Err)
		}
	}
	for i := range starling.MaxSinks + 1 {
		sink.Name = fmt.Sprintf("s%d", i)
		res := d.try(d.cmd(TypeSinkCreate, SinkCreate{sink}))[0]
		if want := i == starling.MaxSinks; want != errors.Is(res.Err, starling.ErrConflict) {
			t.Errorf("sink %d: %v", i, res.Err)
		}
	}
}
