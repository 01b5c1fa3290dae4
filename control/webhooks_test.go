package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/webhook"
)

// pushTo sends a push to a generic webhook, signed.
func pushTo(ctx context.Context, s *Server, at time.Time, hook *starling.IssuedWebhook, id, repo, ref, sha string) (*starling.PushOutcome, error) {
	body := []byte(fmt.Sprintf(`{"repository":%q,"ref":%q,"sha":%q}`, repo, ref, sha))
	h := http.Header{}
	h.Set(webhook.HeaderID, id)
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(webhook.HeaderSignature, webhook.Sign(hook.Secret, id, at, body))
	return s.ReceivePush(ctx, hook.Name, h, body)
}

func TestPushesDeploy(t *testing.T) {
	b := newBench(t, "us", func(c *Config) { c.SecretKey = []byte(strings.Repeat("k", hookSecretBytes)) })
	t.Cleanup(b.server.poster.Close)
	b.elect()
	b.app("web", func(a *starling.App) { a.Source.Branch = "main" })
	b.app("api", func(a *starling.App) { a.Source = starling.SourceSpec{Git: "git@git.example:web.git", Branch: "main"} })
	b.app("dev", func(a *starling.App) { a.Source = starling.SourceSpec{Git: "https://git.example/web", Branch: "dev"} })
	b.app("files", func(a *starling.App) {
		a.Source, a.Build = starling.SourceSpec{Git: "https://git.example/files", Branch: "main"}, nil
	})
	all, err := b.server.CreateWebhook(t.Context(), "ann", starling.NewWebhook{Name: "all", Kind: starling.WebhookGeneric})
	if err != nil {
		t.Fatal(err)
	}
	some, err := b.server.CreateWebhook(t.Context(), "ann", starling.NewWebhook{Name: "some", Kind: starling.WebhookGeneric, Apps: []string{"api"}})
	if err != nil || some.Secret == all.Secret || len(all.Secret) < 50 {
		t.Fatalf("%+v, %v", some, err)
	}
	n := 0
	push := func(hook *starling.IssuedWebhook, id, repo, ref, sha string) (*starling.PushOutcome, error) {
		if id == "" {
			n++
			id = strconv.Itoa(n)
		}
		return pushTo(t.Context(), b.server, b.clock.Now(), hook, id, repo, ref, sha)
	}
	const repo = "https://git.example/web.git"
	sha := strings.Repeat("a", 40)
	out, err := push(all, "one", repo, "refs/heads/main", sha)
	if err != nil || len(out.Deployments) != 2 || out.Ignored != "" {
		t.Fatalf("%+v, %v", out, err)
	}
	for _, p := range out.Deployments {
		if d := b.deployment(p.ID); d.SHA != sha || d.App != p.App || d.Actor != "webhook:all" || !p.Created {
			t.Errorf("%+v: %+v", p, d)
		}
	}
	again, err := push(all, "one", repo, "refs/heads/main", sha)
	if err != nil || len(again.Deployments) != 2 || again.Deployments[0].Created || again.Deployments[0].ID != out.Deployments[0].ID {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	back, err := push(all, "", repo, "refs/heads/main", sha)
	if err != nil || !back.Deployments[0].Created {
		t.Errorf("the same commit pushed again: %+v, %v", back, err)
	}
	if out, err := push(some, "", repo, "refs/heads/main", sha); err != nil || len(out.Deployments) != 1 || out.Deployments[0].App != "api" {
		t.Errorf("a webhook of one app: %+v, %v", out, err)
	}
	for why, tc := range map[string][3]string{
		"no app of region us":    {repo, "refs/heads/other", sha},
		"is a tag":               {repo, "refs/tags/v1", sha},
		"was deleted":            {repo, "refs/heads/main", strings.Repeat("0", 40)},
		"has no build":           {"https://git.example/files", "refs/heads/main", sha},
		"may not deploy app dev": {repo, "refs/heads/dev", sha},
	} {
		hook := all
		if strings.HasPrefix(why, "may not") {
			hook = some
		}
		out, err := push(hook, "", tc[0], tc[1], tc[2])
		if err != nil || len(out.Deployments) != 0 || !strings.Contains(out.Ignored, why) {
			t.Errorf("%s: %+v, %v", why, out, err)
		}
	}
	if _, err := push(&starling.IssuedWebhook{Webhook: starling.Webhook{Name: "all"}, Secret: some.Secret}, "", repo, "refs/heads/main", sha); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("another webhook's secret: %v", err)
	}
	if _, err := push(&starling.IssuedWebhook{Webhook: starling.Webhook{Name: "none"}}, "", repo, "refs/heads/main", sha); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("no webhook: %v", err)
	}
	if err := b.server.DeleteWebhook(t.Context(), "ann", "all"); err != nil {
		t.Error(err)
	}
	if _, err := push(all, "", repo, "refs/heads/main", sha); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a deleted webhook: %v", err)
	}
}

// TestPushesDeployAtTheHome holds that a push that one region has verified deploys an app of
// another region, once however often it comes, under the webhook's name.
func TestPushesDeployAtTheHome(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 1, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	app := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web", Branch: "main"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })

	abroad := eu.leader().Server
	var hook *starling.IssuedWebhook
	w.eventually("a webhook of eu, and the app known there", func() bool {
		if hook == nil {
			hook, _ = abroad.CreateWebhook(w.ctx, "ann", starling.NewWebhook{Name: "all", Kind: starling.WebhookGeneric})
		}
		_, known := abroad.cfg.FSM.View().App("web")
		return hook != nil && known
	})
	sha := strings.Repeat("a", 40)
	var first starling.PushDeployment
	for i := range 2 {
		var out *starling.PushOutcome
		w.eventually("a push", func() (ok bool) {
			var err error
			if out, err = pushTo(w.ctx, abroad, time.Now(), hook, "one", "git@git.example:web.git", "refs/heads/main", sha); err != nil && !errors.Is(err, starling.ErrUnavailable) {
				t.Fatal(err)
			}
			return err == nil
		})
		if len(out.Deployments) != 1 || out.Ignored != "" {
			t.Fatalf("%+v", out)
		}
		if i == 0 {
			first = out.Deployments[0]
		} else if again := out.Deployments[0]; again.ID != first.ID || again.Created {
			t.Errorf("the same again: %+v after %+v", again, first)
		}
	}
	d := w.await(first.ID, starling.PhaseQueued, starling.PhaseBuilding)
	if d.Home != "us" || d.App != "web" || d.SHA != sha || d.Actor != "webhook:eu/all" {
		t.Errorf("%+v", d)
	}
}
