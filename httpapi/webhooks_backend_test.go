package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

func (b *backend) Webhooks() []*starling.Webhook { return b.fsm.View().Webhooks() }

func (b *backend) CreateWebhook(_ context.Context, actor string, n starling.NewWebhook) (*starling.IssuedWebhook, error) {
	r, err := b.propose(actor, raftfsm.TypeWebhookCreate, raftfsm.WebhookCreate{Webhook: starling.Webhook{Name: n.Name, Kind: n.Kind, Apps: n.Apps, Sealed: []byte("sealed")}})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedWebhook{Webhook: *r.Webhook, Path: "/v1/hooks/" + n.Name, Secret: "secret of " + n.Name}, nil
}

func (b *backend) DeleteWebhook(_ context.Context, actor, name string) error {
	_, err := b.propose(actor, raftfsm.TypeWebhookDelete, raftfsm.WebhookDelete{Name: name})
	return err
}

// ReceivePush believes whoever has the header that tests send.
func (b *backend) ReceivePush(ctx context.Context, name string, h http.Header, body []byte) (*starling.PushOutcome, error) {
	switch _, ok := b.fsm.View().Webhook(name); {
	case !ok:
		return nil, fmt.Errorf("webhook %.80q: %w", name, starling.ErrNotFound)
	case h.Get("X-Gitlab-Token") != "good":
		return nil, fmt.Errorf("%w: X-Gitlab-Token is wrong", starling.ErrForbidden)
	case len(body) == 0:
		return nil, starling.Invalidf("ref", "is no branch")
	}
	d, isNew, err := b.Submit(ctx, "webhook:"+name, starling.Submission{App: "hello", SHA: sha, IdempotencyKey: string(body)})
	if err != nil {
		return nil, err
	}
	return &starling.PushOutcome{Deployments: []starling.PushDeployment{{App: "hello", ID: d.ID, Created: isNew}}}, nil
}

func (b *backend) Sinks() []starling.SinkStatus {
	var out []starling.SinkStatus
	for _, k := range b.fsm.View().Sinks() {
		out = append(out, starling.SinkStatus{Sink: *k, Pending: 3})
	}
	return out
}

func (b *backend) CreateSink(_ context.Context, actor string, n starling.NewSink) (*starling.IssuedSink, error) {
	r, err := b.propose(actor, raftfsm.TypeSinkCreate, raftfsm.SinkCreate{Sink: starling.Sink{Name: n.Name, Kind: n.Kind, To: n.Shown(), Sealed: []byte("sealed")}})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedSink{Sink: *r.Sink, Secret: "secret of " + n.Name}, nil
}

func (b *backend) TrySink(_ context.Context, name string) (*starling.SinkTrial, error) {
	if _, ok := b.fsm.View().Sink(name); !ok {
		return nil, fmt.Errorf("sink %s: %w", name, starling.ErrNotFound)
	}
	return &starling.SinkTrial{ID: "test_1", Text: "a test", Error: "422"}, nil
}

func (b *backend) DeleteSink(_ context.Context, actor, name string) error {
	_, err := b.propose(actor, raftfsm.TypeSinkDelete, raftfsm.SinkDelete{Name: name})
	return err
}
