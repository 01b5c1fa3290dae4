package starling

import (
	"errors"
	"fmt"
	"time"
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
	ErrClock     = errors.New("the clocks disagree") // by more than certificates allow for
	ErrCorrupt   = errors.New("corrupt")             // bytes do not match their digest
)

// BusyError says that a bound was reached, and when there may be room again. It wraps ErrUnavailable.
type BusyError struct {
	What  string
	After time.Duration // 0: unknown
}

func (e *BusyError) Error() string {
	if e.After == 0 {
		return e.What
	}
	return fmt.Sprintf("%s: try again in %s", e.What, e.After.Round(time.Millisecond))
}

// Unwrap makes a BusyError an ErrUnavailable.
func (e *BusyError) Unwrap() error { return ErrUnavailable }

// FieldError says what is wrong with one field of the input, and what to do.
type FieldError struct {
	Field   string `json:"field"` // dotted path, e.g. deploy.health.http or deploy.strategy.waves[1]
	Problem string `json:"problem"`
	Hint    string `json:"hint,omitempty"` // empty: what HintOf says of the field
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Invalidf returns a *FieldError.
func Invalidf(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// WithHint returns a *FieldError that says what to do.
func WithHint(field, hint, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...), Hint: hint}
}

// IsInvalid reports whether err is about bad input.
func IsInvalid(err error) bool {
	var f *FieldError
	return errors.As(err, &f)
}
