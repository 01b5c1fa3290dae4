package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
)

// MaxRetryAfter is the longest time for which a server may send anybody away.
const MaxRetryAfter = time.Minute

// kinds maps the domain's sentinel errors to the wire and back.
var kinds = []struct {
	err    error
	kind   string
	status int
}{
	{starling.ErrNotFound, "not_found", http.StatusNotFound},
	{starling.ErrFenced, "fenced", http.StatusGone},
	{starling.ErrConflict, "conflict", http.StatusConflict},
	{starling.ErrClock, "clock", http.StatusForbidden},
	{starling.ErrForbidden, "forbidden", http.StatusForbidden},
	{starling.ErrNotLeader, "not_leader", http.StatusServiceUnavailable},
	{starling.ErrUnavailable, "unavailable", http.StatusServiceUnavailable},
}

// ProblemOf describes err for the wire. Errors of no known kind become 500 "internal".
func ProblemOf(err error) Problem {
	var field *starling.FieldError
	if errors.As(err, &field) {
		return Problem{Status: http.StatusBadRequest, Kind: "invalid", Field: field.Field, Detail: field.Problem}
	}
	var busy *starling.BusyError
	if errors.As(err, &busy) {
		return Problem{Status: http.StatusServiceUnavailable, Kind: "unavailable", Detail: busy.What, RetryAfterMS: max(1, busy.After.Milliseconds())}
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return Problem{Status: k.status, Kind: k.kind, Detail: err.Error()}
		}
	}
	return Problem{Status: http.StatusInternalServerError, Kind: "internal", Detail: err.Error()}
}

// Err returns the error that p describes; it wraps the sentinel of its kind.
func (p Problem) Err() error {
	if p.Kind == "invalid" {
		return &starling.FieldError{Field: p.Field, Problem: p.Detail}
	}
	if p.RetryAfterMS > 0 {
		return &starling.BusyError{What: p.Detail, After: time.Duration(min(p.RetryAfterMS, MaxRetryAfter.Milliseconds())) * time.Millisecond}
	}
	for _, k := range kinds {
		if k.kind == p.Kind {
			return fmt.Errorf("%w: %s", k.err, p.Detail)
		}
	}
	return errors.New(p.Detail)
}

// WriteProblem answers a request with err.
func WriteProblem(w http.ResponseWriter, err error) {
	p := ProblemOf(err)
	w.Header().Set("Content-Type", "application/problem+json")
	if p.RetryAfterMS > 0 { // RFC 9110, section 10.2.3, in whole seconds
		w.Header().Set("Retry-After", strconv.FormatInt((p.RetryAfterMS+999)/1000, 10))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the caller is gone: nobody is left to tell
}

func decodeProblem(status int, body []byte) error {
	var p Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Kind == "" {
		if status == http.StatusNotFound { // a program that does not have the route
			return fmt.Errorf("%w: status %d: %.200q", starling.ErrNotFound, status, body)
		}
		return fmt.Errorf("status %d: %.200q", status, body)
	}
	return p.Err()
}
