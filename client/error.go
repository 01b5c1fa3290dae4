package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/starlingdeploy/starling"
)

// Error is a problem document (RFC 9457) from a server.
type Error struct {
	Status  int    `json:"status"`
	Title   string `json:"title"`
	Detail  string `json:"detail"`
	Kind    string `json:"kind,omitempty"`    // invalid, not_found, conflict, …: for programs
	Field   string `json:"field,omitempty"`   // which part of the input is wrong
	In      string `json:"in,omitempty"`      // where that is: body, query, path or header
	Pointer string `json:"pointer,omitempty"` // in a JSON body: as a JSON pointer, e.g. #/deploy/keep (RFC 6901)
	Hint    string `json:"hint,omitempty"`    // what to do
}

func (e *Error) Error() string {
	s := e.Detail
	if s == "" {
		s = e.Title
	}
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the sentinel of package starling that fits the status, if any.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusNotFound:
		return starling.ErrNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return starling.ErrConflict
	case http.StatusUnauthorized, http.StatusForbidden:
		return starling.ErrForbidden
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return starling.ErrUnavailable
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return &starling.FieldError{Field: e.Field, Problem: e.Detail, Hint: e.Hint}
	default:
		return nil
	}
}

// maxProblemBytes bounds the problem document that is read.
const maxProblemBytes = 64 << 10

func decodeError(res *http.Response) error {
	e := &Error{Status: res.StatusCode, Title: http.StatusText(res.StatusCode)}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxProblemBytes))
	if err != nil || json.Unmarshal(b, e) != nil {
		e.Detail = fmt.Sprintf("the server answered %s: %.200q", res.Status, b)
	}
	e.Status = res.StatusCode
	return e
}
