package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/starlingdeploy/starling"
)

// answer is a body with the index that it shows.
type answer[T any] struct {
	Index uint64 `header:"X-Starling-Index"`
	Body  T
}

// tagged is an app with its revision as its entity tag, to be sent as If-Match.
type tagged struct {
	Index uint64 `header:"X-Starling-Index"`
	ETag  string `header:"ETag"`
	Body  *starling.App
}

func tag(index uint64, app *starling.App) *tagged {
	return &tagged{index, fmt.Sprintf("%q", strconv.FormatUint(app.Revision, 10)), app}
}

// created is an answer whose status tells new from known.
type created[T any] struct {
	Status   int
	Location string `header:"Location"`
	Body     T
}

// secret is an answer that is shown this once, and must be kept by nobody on the way.
type secret[T any] struct {
	CacheControl string `header:"Cache-Control"`
	Body         T
}

type (
	appRead struct {
		App string `path:"app"`
		Blocking
		Stale
		Consistent
	}
	listRead struct {
		Blocking
	}
	appList struct {
		Blocking
		Consistent
	}
	appWrite struct {
		App        string `path:"app"`
		IfMatch    string `header:"If-Match" doc:"The app's present revision; 0: it must not exist"`
		IfRevision string `query:"if_revision" doc:"The same as If-Match"`
	}
	newAppWrite struct {
		IfMatch    string `header:"If-Match" doc:"The app's present revision; 0: it must not exist"`
		IfRevision string `query:"if_revision" doc:"The same as If-Match"`
	}
	rollbackWrite struct {
		App string `path:"app"`
		Key string `header:"Idempotency-Key" doc:"Makes a retry safe; 128 bytes at most"`
	}
)

type rollbackBody struct {
	To uint64 `json:"to,omitempty" doc:"Sequence of the release's generation; 0: the one before the present"`
}

func (a *api) registerApps() {
	register(a, route{
		method: http.MethodGet, path: "/v1/apps", id: "list-apps", summary: "List apps", role: starling.ACLViewer, consistent: true,
	}, a.listApps)
	register(a, route{
		method: http.MethodPost, path: "/v1/apps", id: "create-app", summary: "Create or change an app",
		role: starling.ACLDeployer, place: atApplied, body: starling.App{},
	}, a.createApp)
	register(a, route{
		method: http.MethodPut, path: "/v1/apps", id: "put-app", summary: "Create or change an app",
		role: starling.ACLDeployer, place: atApplied, body: starling.App{},
	}, a.createApp)
	register(a, route{
		method: http.MethodPut, path: "/v1/apps/{app}", id: "apply-app", summary: "Create or change an app",
		role: starling.ACLDeployer, place: atApplied, body: starling.App{},
	}, a.applyApp)
	register(a, route{
		method: http.MethodGet, path: "/v1/apps/{app}", id: "get-app", summary: "Show an app",
		role: starling.ACLViewer, place: atApp, consistent: true,
	}, a.getApp)
	register(a, route{
		method: http.MethodGet, path: "/v1/apps/{app}/releases", id: "list-releases", summary: "List an app's releases, newest first",
		role: starling.ACLViewer, place: atApp, consistent: true,
	}, a.listReleases)
	register(a, route{
		method: http.MethodGet, path: "/v1/apps/{app}/goal", id: "get-goal", summary: "Show what an app's machines are to run",
		role: starling.ACLViewer, place: atApp, consistent: true,
	}, a.getGoal)
	register(a, route{
		method: http.MethodPost, path: "/v1/apps/{app}/rollback", id: "rollback-app", summary: "Deploy an earlier release again",
		role: starling.ACLDeployer, place: atApp, body: rollbackBody{}, keyed: true,
	}, a.rollback)
}

func (a *api) listApps(ctx context.Context, in *appList) (*answer[[]*starling.App], error) {
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	return &answer[[]*starling.App]{index, list(a.Backend.Apps())}, nil
}

func (a *api) getApp(ctx context.Context, in *appRead) (*tagged, error) {
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	app, ok := a.Backend.App(in.App)
	if !ok {
		return nil, noApp(in.App)
	}
	return tag(index, app), nil
}

func noApp(name string) error { return fmt.Errorf("app %.80q: %w", name, starling.ErrNotFound) }

func (a *api) listReleases(ctx context.Context, in *releasesRead) (*answer[[]starling.ReleaseStatus], error) {
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	if _, ok := a.Backend.App(in.App); !ok {
		return nil, noApp(in.App)
	}
	if in.Readiness {
		all, err := a.Backend.Readiness(ctx, in.App)
		return &answer[[]starling.ReleaseStatus]{index, list(all)}, err
	}
	all := []starling.ReleaseStatus{}
	for _, r := range a.Backend.Releases(in.App) {
		all = append(all, starling.ReleaseStatus{Release: *r})
	}
	return &answer[[]starling.ReleaseStatus]{index, all}, nil
}

// getGoal shows the goal in force. One without an artifact says that nothing is to run.
func (a *api) getGoal(ctx context.Context, in *appRead) (*answer[*starling.Goal], error) {
	index, err := a.block(ctx, in.Blocking)
	if err != nil {
		return nil, err
	}
	goal, ok := a.Backend.Goal(in.App)
	if !ok {
		return nil, fmt.Errorf("a goal of app %.80q: %w", in.App, starling.ErrNotFound)
	}
	return &answer[*starling.Goal]{index, goal}, nil
}

func (a *api) createApp(ctx context.Context, in *newAppWrite) (*tagged, error) {
	return a.apply(ctx, "", in.IfMatch, in.IfRevision)
}

func (a *api) applyApp(ctx context.Context, in *appWrite) (*tagged, error) {
	return a.apply(ctx, in.App, in.IfMatch, in.IfRevision)
}

// apply reads, completes and checks an app. name, when set, is the one in the path.
func (a *api) apply(ctx context.Context, name, ifMatch, ifRevision string) (*tagged, error) {
	c := callOf(ctx)
	var app starling.App
	if err := decode(c.body, &app); err != nil {
		return nil, err
	}
	switch {
	case app.Name == "":
		app.Name = name
	case name != "" && name != app.Name:
		return nil, starling.Invalidf("name", "is %.80q, but the path says %.80q", app.Name, name)
	}
	revision, err := parseRevision(ifMatch, ifRevision)
	if err != nil {
		return nil, err
	}
	app.Revision = 0 // the state machine's to give
	app.SetDefaults()
	if err := app.Validate(); err != nil {
		return nil, err
	}
	applied, err := a.Backend.ApplyApp(ctx, c.actor, app, revision)
	if err != nil {
		return nil, err
	}
	return tag(a.Backend.Leader().Index, applied), nil
}

// parseRevision reads a condition, with or without the quotes of an entity tag.
func parseRevision(ifMatch, ifRevision string) (*uint64, error) {
	field, text := "If-Match", strings.Trim(ifMatch, `"`)
	if text == "" {
		field, text = "if_revision", ifRevision
	}
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, starling.Invalidf(field, "%.40q is not a revision, a number", text)
	}
	return &n, nil
}

func (a *api) rollback(ctx context.Context, in *rollbackWrite) (*created[deploymentDoc], error) {
	c := callOf(ctx)
	var body rollbackBody
	if err := errors.Join(decode(c.body, &body), checkKey(in.Key)); err != nil {
		return nil, err
	}
	d, isNew, err := a.Backend.Rollback(ctx, c.actor, in.App, body.To, in.Key, c.from)
	if err != nil {
		return nil, err
	}
	return submitted(d, isNew), nil
}

// list makes an empty list of none, so that JSON shows [] and not null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
