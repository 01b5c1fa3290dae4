package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/starlingdeploy/starling"
)

// Problem is the answer to a request that failed (RFC 9457, "application/problem+json").
type Problem struct {
	Title  string `json:"title" doc:"What kind of problem this is"`
	Status int    `json:"status" doc:"HTTP status code"`
	Detail string `json:"detail" doc:"What is wrong this time"`
	Kind   string `json:"kind" enum:"invalid,not_found,conflict,fenced,unauthorized,forbidden,corrupt,not_leader,unavailable,too_large,method,internal" doc:"For programs"`
	Field  string `json:"field,omitempty" doc:"Part of the input that is wrong: a parameter's name, or a dotted path in the body"`
	In     string `json:"in,omitempty" enum:"body,query,path,header" doc:"Where that field is"`
	// Pointer is "#" for the body as a whole.
	Pointer string `json:"pointer,omitempty" doc:"If it is in a JSON body: the field as a JSON pointer in URI fragment form (RFC 6901), e.g. #/deploy/strategy/waves/1"`
	Hint    string `json:"hint" doc:"What to do about it"`
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Field != "" {
		return p.Field + ": " + p.Detail
	}
	return p.Detail
}

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	switch p.Status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="starling"`)
	}
	return h
}

// kind says how an error of the domain is told.
type kind struct {
	err    error
	status int
	name   string
	hint   string
}

// kinds maps the domain's sentinel errors; the first that fits counts.
func kinds() []kind {
	return []kind{
		{starling.ErrNotFound, http.StatusNotFound, "not_found", "the lists at /v1/apps, /v1/deployments and /v1/artifacts show what there is"},
		{starling.ErrFenced, http.StatusGone, "fenced", "it was overtaken by something newer: look again"},
		{starling.ErrConflict, http.StatusConflict, "conflict", "it is not possible in the present state: look at it and decide again"},
		{starling.ErrForbidden, http.StatusForbidden, "forbidden", "ask somebody whose role allows it, or an operator for such a token: starling acl token create"},
		{starling.ErrCorrupt, http.StatusBadRequest, "corrupt", "send the bytes again; their SHA-256 must be the digest"},
		{starling.ErrNotLeader, http.StatusServiceUnavailable, "not_leader", "the leader has just changed: try again in a second"},
		{starling.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "try again in a second; reads of an app or a deployment can add ?stale to see this region's copy"},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, "unavailable", "it took too long: try again"},
		{context.Canceled, http.StatusServiceUnavailable, "unavailable", "the server is stopping: try another one"},
	}
}

// problemOf describes err. It reports false if err is of no known kind: then the answer
// says nothing of its text, which belongs into the log.
func problemOf(err error) (*Problem, bool) {
	var p *Problem
	if errors.As(err, &p) {
		return p, true
	}
	var field *starling.FieldError
	if errors.As(err, &field) {
		return &Problem{Status: http.StatusBadRequest, Kind: "invalid", Field: field.Field, Detail: field.Problem, Hint: field.Hint}, true
	}
	var stale *starling.StaleError
	if errors.As(err, &stale) {
		return &Problem{Status: http.StatusPreconditionFailed, Kind: "conflict", Field: stale.Field, Detail: stale.Detail, Hint: stale.Hint}, true
	}
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			return &Problem{Status: k.status, Kind: k.name, Detail: err.Error(), Hint: k.hint}, true
		}
	}
	return &Problem{
		Status: http.StatusInternalServerError, Kind: "internal", Detail: "an internal error; it is in this server's log",
		Hint: "ask an operator to look into the log of the server that answered; another server may do",
	}, false
}

// problem describes what was wrong with a request for r, and logs what the answer does not tell.
func (a *api) problem(r route, err error) *Problem {
	p, known := problemOf(err)
	if !known {
		a.Logger.Error("request failed", "request", r.id, "error", err)
	}
	p.Title = http.StatusText(p.Status)
	r.locate(p)
	return p
}

// writeProblem answers with p outside of huma.
func writeProblem(w http.ResponseWriter, p *Problem) {
	p.Title = http.StatusText(p.Status)
	for k, v := range p.GetHeaders() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the caller is gone: nobody is left to tell
}

// plainProblem turns huma's own errors, about parameters, into a Problem.
func plainProblem(ctx huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := &Problem{Title: http.StatusText(invalidStatus(e.Status)), Status: invalidStatus(e.Status), Kind: "invalid", Detail: e.Detail}
	if p.Status >= http.StatusInternalServerError {
		p.Kind = "internal"
	}
	if len(e.Errors) > 0 {
		p.In, p.Field, _ = strings.Cut(e.Errors[0].Location, ".")
		p.Detail = e.Errors[0].Message // never the value: it may be a secret
	}
	for _, param := range ctx.Operation().Parameters {
		if param.Name == p.Field && param.In == p.In {
			p.Hint = param.Description
		}
	}
	if p.Hint == "" {
		p.Hint = hintOperation(ctx.Operation().OperationID)
	}
	return p, nil
}

// invalidStatus is 400 for huma's 422, so that invalid input has one status.
func invalidStatus(status int) int {
	if status == http.StatusUnprocessableEntity {
		return http.StatusBadRequest
	}
	return status
}

// humaContext is huma.Context by a name that does not hide its method Context.
type humaContext huma.Context

// plainContext applies invalidStatus to what huma writes, and lets nothing through of a
// request that has moved on.
type plainContext struct {
	humaContext
	moved *moved
}

// SetStatus implements huma.Context.
func (c plainContext) SetStatus(status int) {
	if c.moved.to == nil {
		c.humaContext.SetStatus(invalidStatus(status))
	}
}

// Unwrap lets humago find the request below.
func (c plainContext) Unwrap() huma.Context { return c.humaContext }
