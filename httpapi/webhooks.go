package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/starlingdeploy/starling"
)

// turnstile bounds what strangers can make a server do.
type turnstile struct {
	places chan struct{}
	rate   *rate.Limiter
}

func newTurnstile() *turnstile {
	return &turnstile{places: make(chan struct{}, maxPushes), rate: rate.NewLimiter(pushesPerSecond, maxPushBurst)}
}

// enter takes a place; the caller gives it back. It does not wait: who sends webhooks sends
// them again, or lets people do so.
func (t *turnstile) enter() (leave func(), err error) {
	busy := &starling.BusyError{What: "too many webhooks at this server", After: time.Second}
	if !t.rate.Allow() {
		return nil, busy
	}
	select {
	case t.places <- struct{}{}:
		return func() { <-t.places }, nil
	default:
		return nil, busy
	}
}

// webhookDoc is a webhook without its secret.
type webhookDoc struct {
	Name      string               `json:"name"`
	Kind      starling.WebhookKind `json:"kind"`
	Apps      []string             `json:"apps"`
	CreatedAt time.Time            `json:"created_at"`
	Actor     string               `json:"actor,omitempty"`
}

// issuedWebhookDoc shows a webhook's secret, this once.
type issuedWebhookDoc struct {
	webhookDoc
	Path   string `json:"path" doc:"That pushes are sent to, below any server's address"`
	Secret string `json:"secret"`
}

func documentWebhook(w *starling.Webhook) webhookDoc {
	return webhookDoc{w.Name, w.Kind, list(w.Apps), w.CreatedAt, w.Actor}
}

type webhookName struct {
	Name string `path:"name" doc:"The name of a webhook: starling webhook list shows them"`
}

func (a *api) registerWebhooks() {
	register(a, route{
		method: http.MethodGet, path: "/v1/webhooks", id: "list-webhooks", summary: "List this region's webhooks, without their secrets",
		role: starling.ACLOperator, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]webhookDoc], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		docs := []webhookDoc{}
		for _, w := range a.Backend.Webhooks() {
			docs = append(docs, documentWebhook(w))
		}
		return &answer[[]webhookDoc]{index, docs}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/webhooks", id: "create-webhook", summary: "Let pushes to repositories deploy apps of this region; the secret is shown this once",
		role: starling.ACLOperator, place: atLeader, body: starling.NewWebhook{}, status: http.StatusCreated,
	}, func(ctx context.Context, _ *none) (*secret[issuedWebhookDoc], error) {
		c := callOf(ctx)
		var n starling.NewWebhook
		if err := decode(c.body, &n); err != nil {
			return nil, err
		}
		if err := n.Check(); err != nil {
			return nil, err
		}
		w, err := a.Backend.CreateWebhook(ctx, c.actor, n)
		if err != nil {
			return nil, err
		}
		return &secret[issuedWebhookDoc]{"no-store", issuedWebhookDoc{documentWebhook(&w.Webhook), w.Path, w.Secret}}, nil
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/webhooks/{name}", id: "delete-webhook", summary: "Forget a webhook",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *webhookName) (*none, error) {
		return nothing(a.Backend.DeleteWebhook(ctx, callOf(ctx).actor, in.Name))
	})
	// No token: the signature says who it is.
	register(a, route{
		method: http.MethodPost, path: "/v1/hooks/{name}", id: "receive-push", summary: "Tell a webhook of a push, as GitHub, GitLab or anybody with its secret",
		place: atLeader, raw: true, media: "application/json", maxBytes: starling.MaxPushBodyBytes, keyed: true, guard: a.pushes.enter,
	}, func(ctx context.Context, in *webhookName) (*answer[*starling.PushOutcome], error) {
		c := callOf(ctx)
		out, err := a.Backend.ReceivePush(ctx, in.Name, c.moved.req.Header, c.body)
		switch {
		case errors.Is(err, starling.ErrForbidden):
			return nil, &Problem{
				Status: http.StatusForbidden, Kind: "forbidden", Detail: err.Error(),
				Hint: "give the sender the secret that starling webhook create has shown; if nobody has it any more, delete the webhook and create it again",
			}
		case err != nil:
			return nil, err
		}
		out.Deployments = list(out.Deployments)
		return &answer[*starling.PushOutcome]{a.Backend.Leader().Index, out}, nil
	})
}
