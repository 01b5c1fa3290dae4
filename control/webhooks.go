package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/webhook"
)

// hookSecretBytes is how much randomness a secret has that is made here: 256 bits.
const hookSecretBytes = 32

// hookSecrets is what a webhook keeps sealed.
type hookSecrets struct {
	Secret string `json:"secret"`
}

// Webhooks implements httpapi.Webhooks.
func (s *Server) Webhooks() []*starling.Webhook { return s.cfg.FSM.View().Webhooks() }

// CreateWebhook implements httpapi.Webhooks.
func (s *Server) CreateWebhook(ctx context.Context, actor string, n starling.NewWebhook) (*starling.IssuedWebhook, error) {
	if err := n.Check(); err != nil {
		return nil, err
	}
	secret := n.Secret
	if secret == "" {
		text, err := s.random(hookSecretBytes)
		if err != nil {
			return nil, err
		}
		secret = text
	}
	sealed, err := s.seal("webhook "+n.Name, hookSecrets{secret})
	if err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeWebhookCreate, raftfsm.WebhookCreate{
		Webhook: starling.Webhook{Name: n.Name, Kind: n.Kind, Apps: n.Apps, Sealed: sealed},
	})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedWebhook{Webhook: *res.Webhook, Path: "/v1/hooks/" + n.Name, Secret: secret}, nil
}

// DeleteWebhook implements httpapi.Webhooks.
func (s *Server) DeleteWebhook(ctx context.Context, actor, name string) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeWebhookDelete, raftfsm.WebhookDelete{Name: name})
	return err
}

// ReceivePush implements httpapi.Webhooks. A push that comes again, from whomever, finds the
// deployments that it has made.
func (s *Server) ReceivePush(ctx context.Context, name string, h http.Header, body []byte) (*starling.PushOutcome, error) {
	v := s.cfg.FSM.View()
	hook, ok := v.Webhook(name)
	if !ok {
		return nil, fmt.Errorf("webhook %.80q: %w in region %s", name, starling.ErrNotFound, s.cfg.Region)
	}
	var secrets hookSecrets
	if err := s.open("webhook "+hook.Name, hook.Sealed, &secrets); err != nil {
		return nil, err
	}
	id, err := webhook.Verify(hook.Kind, secrets.Secret, h, body, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	push, ignored, err := webhook.ParsePush(hook.Kind, h, body)
	if err != nil {
		return nil, err
	}
	if ignored != "" {
		return &starling.PushOutcome{Ignored: ignored}, nil
	}
	apps, why := s.pushedTo(v, hook, push)
	if len(apps) == 0 {
		return &starling.PushOutcome{Ignored: why}, nil
	}
	out := &starling.PushOutcome{}
	var failed error // one region out of reach keeps nothing from the others; a repetition finds what was made
	for _, app := range apps {
		d, err := s.pushTo(ctx, app, rpc.PushRequest{
			App: app.Name, SHA: push.SHA, Webhook: hook.Name, IdempotencyKey: "push-" + hook.Name + "-" + id[:48],
		})
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("app %s, homed in region %s: %w", app.Name, app.Home, err))
			continue
		}
		out.Deployments = append(out.Deployments, d)
	}
	if failed != nil {
		return nil, failed
	}
	return out, nil
}

// pushTo submits a verified push at the home of an app.
func (s *Server) pushTo(ctx context.Context, app *starling.App, req rpc.PushRequest) (starling.PushDeployment, error) {
	if app.Home == s.cfg.Region {
		return s.deployPush(ctx, "webhook:"+req.Webhook, req)
	}
	return askLeader(ctx, s, app.Home, func(ctx context.Context, home *rpc.Client) (starling.PushDeployment, error) {
		return home.Push(ctx, req)
	})
}

func (s *Server) deployPush(ctx context.Context, actor string, req rpc.PushRequest) (starling.PushDeployment, error) {
	d, isNew, err := s.Submit(ctx, actor, starling.Submission{
		App: req.App, SHA: req.SHA, IdempotencyKey: req.IdempotencyKey,
	})
	if err != nil {
		return starling.PushDeployment{}, err
	}
	return starling.PushDeployment{App: req.App, ID: d.ID, Created: isNew}, nil
}

// servePush deploys an app that is homed here, after a push that another region's webhook has verified.
func (s *Server) servePush(w http.ResponseWriter, r *http.Request, c *caller) error {
	var req rpc.PushRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	if err := starling.CheckName("webhook", req.Webhook); err != nil {
		return err
	}
	if err := starling.CheckSHA(req.SHA); err != nil {
		return err
	}
	d, err := s.deployPush(r.Context(), "webhook:"+c.Region+"/"+req.Webhook, req)
	if err != nil {
		return err
	}
	return answer(w, d)
}

// pushedTo returns the apps that a push deploys, or why there is none.
func (s *Server) pushedTo(v raftfsm.View, hook *starling.Webhook, push *webhook.Push) ([]*starling.App, string) {
	var apps []*starling.App
	why := fmt.Sprintf("no app of region %s has this repository as its source.git and %.200q as its source.branch", s.cfg.Region, push.Branch)
	for _, app := range v.Apps() {
		switch {
		case !push.Concerns(app):
		case len(hook.Apps) > 0 && !slices.Contains(hook.Apps, app.Name):
			why = fmt.Sprintf("webhook %s may not deploy app %s", hook.Name, app.Name)
		case app.Build == nil:
			why = fmt.Sprintf("app %s has no build: it takes prebuilt artifacts only", app.Name)
		case len(apps) < starling.MaxPushDeploymentsOf:
			apps = append(apps, app)
		}
	}
	return apps, why
}
