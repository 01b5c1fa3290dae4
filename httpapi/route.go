package httpapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/starlingdeploy/starling"
)

// place says which server serves a request.
type place int

const (
	here         place = iota // any server
	atLeader                  // the leader of this region
	atApp                     // the leader of the home of the app in the path
	atDeployment              // the leader of the home of the deployment in the path
	atSubmitted               // the leader of the home of the app in the body
	atApplied                 // as atApp, but an app that is new begins in this region
)

// route is one operation of the API.
type route struct {
	method, path string
	id, summary  string
	role         starling.ACLRole // "": open to everybody
	place        place
	body         any // example of the JSON body; nil: none is read
	raw          bool
	stream       bool                             // the handler reads the body, maxBytes at most, as it comes
	maxBytes     int64                            // of the body; 0: maxJSONBytes
	status       int                              // of success, 0: 200
	consistent   bool                             // a read that takes ?consistent
	reads        bool                             // changes nothing, though it is no GET
	anywhere     bool                             // where its place cannot be reached, any server tells what it knows
	keyed        bool                             // a change that is harmless twice, by an idempotency key or by itself
	media        string                           // of a raw body; "": bytes
	guard        func() (leave func(), err error) // of a route open to everybody, before its body is read
	params       map[string]param                 // by name; register finds them
}

// call is what the middleware has found out about a request.
type call struct {
	actor  string
	from   starling.Origin
	token  *starling.Token // nil: this server runs without tokens, or the route needs none
	body   []byte
	moved  *moved
	stream io.Reader // of a route with a stream
}

type callKey struct{}

func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call) // always there: register puts it
	return c
}

// register adds an operation. Its requests are authorized, their bodies read, and
// those that another server must serve passed on, before h is called.
func register[I, O any](a *api, r route, h func(context.Context, *I) (*O, error)) {
	r.params = paramsOf(reflect.TypeFor[I]())
	op := huma.Operation{
		Method: r.method, Path: r.path, OperationID: r.id, Summary: r.summary,
		DefaultStatus: r.status,
		Tags:          []string{tagOf(r.path)},
		Responses: map[string]*huma.Response{"default": {
			Description: "A problem",
			Content: map[string]*huma.MediaType{"application/problem+json": {
				Schema: a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, ""),
			}},
		}},
		Middlewares: huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) { a.admit(r, ctx, next) }},
	}
	if r.role != "" {
		op.Security = []map[string][]string{{"token": {}}}
		op.Description = fmt.Sprintf("Needs a token of role %s or above.", r.role)
	}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil && r.repeatable(err) {
			if out, err = persist(ctx, a, r, err, func() (*O, error) { return h(ctx, in) }); out == nil && err == nil {
				return nil, nil // admit passes the request on
			}
		}
		if err != nil {
			return nil, a.problem(r, err)
		}
		return out, nil
	})
	if r.body != nil || r.raw || r.stream {
		a.describeBody(r)
	}
}

func tagOf(path string) string {
	tag, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/")
	return strings.Trim(tag, "/")
}

// describeBody adds the body to the description; the handlers decode it themselves, so
// that mistakes are named precisely.
func (a *api) describeBody(r route) {
	media, schema := "application/octet-stream", &huma.Schema{Type: "string", Format: "binary"}
	switch {
	case r.media != "":
		media = r.media
	case !r.raw && !r.stream:
		media = "application/json"
		schema = a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(r.body), true, r.id)
	}
	item := a.huma.OpenAPI().Paths[r.path]
	op := item.Post
	if r.method == http.MethodPut {
		op = item.Put
	}
	op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{media: {Schema: schema}}}
}

// admit authorizes a request, reads its body, and serves it here or passes it on.
func (a *api) admit(r route, hctx huma.Context, next func(huma.Context)) {
	req, w := humago.Unwrap(hctx)
	begun := time.Now()
	if r.keyed && req.Header.Get(headerKey) == "" {
		req.Header.Set(headerKey, "auto-"+rand.Text()) // so that servers may try again while the leader changes
	}
	c, err := a.authorize(r, req)
	if c.from = originOf(req); c.token != nil {
		c.from.Token = c.token.ID
	}
	if err == nil && r.guard != nil {
		var leave func()
		if leave, err = r.guard(); err == nil {
			defer leave()
		}
	}
	switch {
	case err != nil:
	case r.body != nil || r.raw:
		c.body, err = readBody(w, req, r)
	case r.stream:
		req.Body = http.MaxBytesReader(w, req.Body, r.maxBytes)
		c.stream = req.Body
	}
	if err == nil {
		err = checkAsked(r, req)
	}
	if err != nil {
		writeProblem(w, a.problem(r, err))
		return
	}
	lost := false // its place cannot be reached
	for end := begun.Add(a.Patience); ; {
		transport, err := a.placeOf(r, req, c.body)
		if lost = lost || r.anywhere && errors.Is(err, starling.ErrUnavailable); lost {
			transport, err = nil, nil
		}
		if err != nil {
			writeProblem(w, a.problem(r, err))
			return
		}
		if transport == nil {
			c.moved = &moved{req: req}
			next(plainContext{huma.WithValue(hctx, callKey{}, c), c.moved})
			if transport = c.moved.to; transport == nil {
				break
			}
		}
		if r.body != nil || r.raw {
			req.Body = io.NopCloser(bytes.NewReader(c.body))
		}
		err = a.passOn(w, req, transport, func(err error) bool {
			return errors.Is(err, starling.ErrNotLeader) && !r.stream && time.Now().Before(end) || r.anywhere
		})
		if err == nil {
			return
		}
		if lost = !errors.Is(err, starling.ErrNotLeader); lost {
			continue
		}
		time.Sleep(lookAgain) // this server has won the lead and is about to begin its term
	}
	if r.method != http.MethodGet && !r.reads {
		a.Logger.Info("change", "request", r.id, "path", req.URL.Path, "actor", c.actor,
			"status", hctx.Status(), "took", time.Since(begun).Round(time.Millisecond))
	}
}

// placeOf returns a transport to the server that must serve the request, nil for this one,
// which then is sure of its lead if the caller wants it to be.
func (a *api) placeOf(r route, req *http.Request, body []byte) (http.RoundTripper, error) {
	transport, err := a.route(r, req, body)
	if err == nil && transport == nil && asked(req, "consistent") {
		return a.confirm(r, req)
	}
	return transport, err
}

// authorize finds out who calls, and refuses those whose role does not suffice.
func (a *api) authorize(r route, req *http.Request) (call, error) {
	if r.role == "" || !a.ACLEnabled {
		return call{actor: "anonymous"}, nil
	}
	scheme, secret, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return call{}, &Problem{
			Status: http.StatusUnauthorized, Kind: "unauthorized", Detail: "this needs a token",
			Hint: "send the header Authorization: Bearer SECRET; the command line takes it from STARLING_TOKEN",
		}
	}
	token, err := a.Backend.Authenticate(secret)
	if err != nil {
		// Made a moment ago at the leader, it may not have arrived at this server.
		ctx, cancel := context.WithTimeout(req.Context(), tokenLag)
		a.Backend.WaitIndex(ctx, a.Backend.Leader().Index)
		cancel()
		token, err = a.Backend.Authenticate(secret)
	}
	switch {
	case errors.Is(err, starling.ErrForbidden):
		return call{}, &Problem{
			Status: http.StatusUnauthorized, Kind: "unauthorized", Detail: err.Error(),
			Hint: "ask an operator for a token: starling acl token create",
		}
	case err != nil:
		return call{}, err
	case !token.Role.Allows(r.role):
		return call{}, &Problem{
			Status: http.StatusForbidden, Kind: "forbidden",
			Detail: fmt.Sprintf("token %s has the role %s; this needs %s", token.Name, token.Role, r.role),
			Hint:   "use a token of that role, or one above it: viewer, deployer, approver, operator",
		}
	}
	return call{actor: "token:" + token.Name, token: token}, nil
}

// readBody reads a bounded body in bounded time and leaves a copy for passing on.
func readBody(w http.ResponseWriter, req *http.Request, r route) ([]byte, error) {
	limit, within := r.maxBytes, bodyWithin
	if limit == 0 {
		limit = maxJSONBytes
	} else if limit > starling.MaxChunkBytes {
		within = largeBodyWithin
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(within)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, limit))
	// The deadline must not end the request while it is being served.
	if derr := rc.SetReadDeadline(time.Time{}); derr != nil && !errors.Is(derr, http.ErrNotSupported) {
		return nil, fmt.Errorf("read the body: %w", derr)
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &Problem{
			Status: http.StatusRequestEntityTooLarge, Kind: "too_large",
			Detail: fmt.Sprintf("the body is longer than %d bytes", limit), Hint: "send less at once; an artifact goes chunk by chunk, as starling artifact push sends it",
		}
	case err != nil:
		return nil, starling.WithHint("body", "send it again, all of it: the connection broke, or it took too long", "ended before its time: %v", err)
	}
	req.Body = io.NopCloser(bytes.NewReader(b))
	req.ContentLength = int64(len(b))
	req.TransferEncoding = nil
	return b, nil
}

// route returns a transport to the server that must serve the request, nil for this one.
func (a *api) route(r route, req *http.Request, body []byte) (http.RoundTripper, error) {
	switch {
	case r.place == here && asked(req, "consistent"):
		return a.Backend.Route(req.Context(), "", "")
	case r.place == here || r.method == http.MethodGet && asked(req, "stale"):
		return nil, nil
	}
	var app, deployment string
	switch r.place {
	case atApp:
		app = req.PathValue("app")
	case atSubmitted:
		app = nameIn(body, "app")
	case atApplied:
		if app = req.PathValue("app"); app == "" {
			app = nameIn(body, "name")
		}
		if _, ok := a.Backend.App(app); !ok {
			return a.Backend.Route(req.Context(), "", "")
		}
	case atDeployment:
		deployment = req.PathValue("id")
	}
	// What cannot be a name is nowhere: the handler says so, without a search.
	if r.place != atLeader && !nameRE.MatchString(app+deployment) {
		return nil, nil
	}
	return a.Backend.Route(req.Context(), app, deployment)
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// asked reports whether the query has a flag: ?stale, ?consistent.
func asked(req *http.Request, flag string) bool {
	q := req.URL.Query()
	return q.Has(flag) && q.Get(flag) != "false"
}

// checkAsked refuses ?consistent where it cannot be kept.
func checkAsked(r route, req *http.Request) error {
	switch {
	case !asked(req, "consistent"):
		return nil
	case !r.consistent:
		return starling.Invalidf("consistent", "%s %s has no consistent form: leave it out", r.method, r.path)
	case asked(req, "stale"):
		return starling.Invalidf("consistent", "?stale asks for the contrary: leave one out")
	}
	return nil
}

// confirm makes sure that this server shows all that was acknowledged before, or
// returns the way to the one that leads meanwhile.
func (a *api) confirm(r route, req *http.Request) (http.RoundTripper, error) {
	for end := time.Now().Add(a.Patience); ; {
		err := a.Backend.Confirm(req.Context())
		changed := errors.Is(err, starling.ErrNotLeader) || errors.Is(err, starling.ErrUnavailable)
		if !changed || time.Now().After(end) {
			return nil, err
		}
		select {
		case <-time.After(lookAgain): // the old term may take a moment to end
		case <-req.Context().Done():
			return nil, err
		}
		if transport, err := a.route(r, req, nil); err != nil || transport != nil {
			return transport, err
		}
	}
}

// passOn proxies the request unchanged. It returns an error, instead of answering with it, if
// nothing was answered yet and hand says that its caller knows better.
func (a *api) passOn(w http.ResponseWriter, req *http.Request, transport http.RoundTripper, hand func(error) bool) (handed error) {
	times, err := strconv.Atoi(req.Header.Get(HeaderForwarded))
	if err != nil {
		times = 0
	}
	if times < 0 || times >= maxForwards {
		writeProblem(w, &Problem{
			Status: http.StatusServiceUnavailable, Kind: "unavailable",
			Detail: fmt.Sprintf("%d servers have passed this request on and none was its place", maxForwards),
			Hint:   "the leader is changing: try again in a second",
		})
		return nil
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: "starling"})
			p.Out.Header.Set(HeaderForwarded, strconv.Itoa(times+1))
			tellOrigin(p.Out.Header, originOf(req))
		},
		Transport:     transport,
		FlushInterval: -1, // logs are streams
		ErrorLog:      slog.NewLogLogger(a.Logger.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if req.Context().Err() == nil && hand(err) {
				handed = err
				return
			}
			writeProblem(w, a.problem(route{id: "pass on"}, fmt.Errorf("pass on %s: %w: %w", req.URL.Path, starling.ErrUnavailable, err)))
		},
	}
	proxy.ServeHTTP(w, req)
	return handed
}
