package starling

import (
	"errors"
	"fmt"
)

// Sentinel errors. Callers test them with errors.Is; httpapi maps each to a status.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflict")       // illegal now; the state must change first
	ErrFenced      = errors.New("fenced")         // an old lease token, epoch or generation
	ErrNotLeader   = errors.New("not the leader") // try another server
	ErrUnavailable = errors.New("unavailable")    // no leader or no quorum; retry with back-off
	// ErrOutcomeUnknown says that a change failed so late that it may have been, or may yet
	// be, made. Only what is harmless twice may be asked for again.
	ErrOutcomeUnknown = errors.New("the outcome is unknown")

	ErrForbidden = errors.New("forbidden")
	ErrCorrupt   = errors.New("corrupt") // bytes do not match their digest
)

// FieldError says what is wrong with one field of the input, and what to do.
type FieldError struct {
	Field   string `json:"field"` // dotted path, e.g. deploy.health.http
	Problem string `json:"problem"`
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Invalidf returns a *FieldError.
func Invalidf(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// IsInvalid reports whether err is about bad input.
func IsInvalid(err error) bool {
	var f *FieldError
	return errors.As(err, &f)
}
