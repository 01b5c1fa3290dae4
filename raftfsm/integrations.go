package raftfsm

import (
	"fmt"
	"math"
	"slices"

	"github.com/starlingdeploy/starling"
)

// MaxSealedBytes bounds what a webhook or a sink keeps sealed: a URL and a secret.
const MaxSealedBytes = 8 << 10

// WebhookCreate adds a webhook. Its secret comes sealed: the state knows nothing of it.
// Result: Webhook, Created.
type WebhookCreate struct {
	Webhook starling.Webhook `json:"webhook"`
}

// WebhookDelete forgets a webhook.
type WebhookDelete struct {
	Name string `json:"name"`
}

// SinkCreate adds a sink. It is told of what happens from now on. Result: Sink, Created.
type SinkCreate struct {
	Sink starling.Sink `json:"sink"`
}

// SinkDelete forgets a sink, and what it was still to be told.
type SinkDelete struct {
	Name string `json:"name"`
}

// SinkProgress records how far sinks have been told. What is about a sink that is gone, or
// was made again since, or is older than what is known, is passed over, each by itself: a
// deposed leader may still be telling.
type SinkProgress struct {
	Sinks []SinkTold `json:"sinks"`
}

// SinkTold is how far one sink has been told.
type SinkTold struct {
	Name     string                `json:"name"`
	Made     uint64                `json:"made"`
	Progress starling.SinkProgress `json:"progress"`
}

func integrationHandlerOf(t Type) handler {
	switch t {
	case TypeWebhookCreate:
		return on((*tx).webhookCreate)
	case TypeWebhookDelete:
		return on((*tx).webhookDelete)
	case TypeSinkCreate:
		return on((*tx).sinkCreate)
	case TypeSinkDelete:
		return on((*tx).sinkDelete)
	case TypeSinkProgress:
		return on((*tx).sinkProgress)
	}
	return nil
}

func integrationTables(s map[string]*tableSchema) {
	table(s, tableWebhooks, func(r *row[starling.Webhook]) []byte { return strKey(r.rec.Name) }, nil)
	table(s, tableSinks, func(r *row[starling.Sink]) []byte { return strKey(r.rec.Name) }, nil)
}

// Webhook returns a webhook of the region.
func (v View) Webhook(name string) (*starling.Webhook, bool) {
	return find(get[starling.Webhook](v.reader, tableWebhooks, byID, strKey(name)))
}

// Webhooks returns the region's webhooks, by name.
func (v View) Webhooks() []*starling.Webhook {
	return records(scan[starling.Webhook](v.reader, tableWebhooks, byID, nil))
}

// Sink returns a sink of the region.
func (v View) Sink(name string) (*starling.Sink, bool) {
	return find(get[starling.Sink](v.reader, tableSinks, byID, strKey(name)))
}

// Sinks returns the region's sinks, by name.
func (v View) Sinks() []*starling.Sink {
	return records(scan[starling.Sink](v.reader, tableSinks, byID, nil))
}

func (t *tx) webhookCreate(p *WebhookCreate) (Result, error) {
	w := p.Webhook
	n := starling.NewWebhook{Name: w.Name, Kind: w.Kind, Apps: w.Apps}
	if err := n.Check(); err != nil {
		return Result{}, err
	}
	if err := checkSealed(w.Sealed); err != nil {
		return Result{}, err
	}
	if err := mayAdd[starling.Webhook](t, tableWebhooks, "webhook", w.Name, starling.MaxWebhooks); err != nil {
		return Result{}, err
	}
	w.CreatedAt, w.Actor = t.now, t.actor
	put(t, tableWebhooks, nil, &row[starling.Webhook]{rec: &w})
	t.emit(starling.Event{Type: EventWebhookCreated, Detail: w.Name})
	return Result{Webhook: &w, Created: true}, nil
}

func (t *tx) webhookDelete(p *WebhookDelete) (Result, error) {
	w, err := forget[starling.Webhook](t, tableWebhooks, "webhook", p.Name, EventWebhookDeleted)
	return Result{Webhook: w}, err
}

func (t *tx) sinkCreate(p *SinkCreate) (Result, error) {
	k := p.Sink
	if err := checkSink(&k); err != nil {
		return Result{}, err
	}
	if err := mayAdd[starling.Sink](t, tableSinks, "sink", k.Name, starling.MaxSinks); err != nil {
		return Result{}, err
	}
	k.CreatedAt, k.Actor, k.Made = t.now, t.actor, t.index
	k.Progress = starling.SinkProgress{Index: t.index, N: math.MaxInt32}
	put(t, tableSinks, nil, &row[starling.Sink]{rec: &k})
	t.emit(starling.Event{Type: EventSinkCreated, Detail: k.Name})
	return Result{Sink: &k, Created: true}, nil
}

func checkSink(k *starling.Sink) error {
	if err := starling.CheckName("name", k.Name); err != nil {
		return err
	}
	for _, n := range k.Notices {
		if !slices.Contains(starling.Notices(), n) {
			return starling.Invalidf("notices", "%.40q is no notice", n)
		}
	}
	if err := checkText("to", k.To, starling.MaxSinkURLBytes); err != nil {
		return err
	}
	if err := checkText("template", k.Template, starling.MaxSinkBodyBytes); err != nil {
		return err
	}
	if err := checkText("kind", string(k.Kind), MaxIDBytes); err != nil {
		return err
	}
	if len(k.Apps) > starling.MaxHookApps {
		return starling.Invalidf("apps", "%d apps, more than %d", len(k.Apps), starling.MaxHookApps)
	}
	return checkSealed(k.Sealed)
}

func checkSealed(b []byte) error {
	if len(b) == 0 || len(b) > MaxSealedBytes {
		return starling.Invalidf("sealed", "%d bytes: want 1 to %d", len(b), MaxSealedBytes)
	}
	return nil
}

func (t *tx) sinkDelete(p *SinkDelete) (Result, error) {
	k, err := forget[starling.Sink](t, tableSinks, "sink", p.Name, EventSinkDeleted)
	return Result{Sink: k}, err
}

func (t *tx) sinkProgress(p *SinkProgress) (Result, error) {
	if len(p.Sinks) > starling.MaxSinks {
		return Result{}, starling.Invalidf("sinks", "%d of them, more than %d", len(p.Sinks), starling.MaxSinks)
	}
	for i := range p.Sinks {
		told := &p.Sinks[i]
		old := get[starling.Sink](t.reader, tableSinks, byID, strKey(told.Name))
		if old == nil || old.rec.Made != told.Made || behind(&told.Progress, &old.rec.Progress) {
			continue
		}
		k := *old.rec
		k.Progress = told.Progress
		k.Progress.LastError = clip(k.Progress.LastError, starling.MaxSinkErrorBytes)
		put(t, tableSinks, old, &row[starling.Sink]{rec: &k})
	}
	return Result{}, nil
}

// behind reports whether a is an older place than b, or less was told there.
func behind(a, b *starling.SinkProgress) bool {
	switch {
	case a.Index != b.Index:
		return a.Index < b.Index
	case a.N != b.N:
		return a.N < b.N
	}
	return a.Delivered < b.Delivered || a.Dropped < b.Dropped
}

// mayAdd refuses a name that is taken, and more than most rows of a small table.
func mayAdd[T any](t *tx, table, what, name string, most int) error {
	if get[T](t.reader, table, byID, strKey(name)) != nil {
		return fmt.Errorf("%w: there is a %s %s already: delete it first, or take another name", starling.ErrConflict, what, name)
	}
	all := 0
	for range t.txn.scan(table, byID, nil) {
		all++
	}
	if all >= most {
		return fmt.Errorf("%w: there are %d %ss: delete some", starling.ErrConflict, all, what)
	}
	return nil
}

// forget drops a row by its name, and returns what it was.
func forget[T any](t *tx, table, what, name, event string) (*T, error) {
	old := get[T](t.reader, table, byID, strKey(name))
	if old == nil {
		return nil, fmt.Errorf("%s %.80q: %w in region %s", what, name, starling.ErrNotFound, t.region)
	}
	drop(t, table, old)
	t.emit(starling.Event{Type: event, Detail: name})
	return old.rec, nil
}
