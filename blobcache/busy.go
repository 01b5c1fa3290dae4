package blobcache

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// Bounds of what a busy server asks for.
const (
	minAgain = 100 * time.Millisecond
	maxAgain = 10 * time.Second
)

// BusyError says that a peer has more to send than its cap allows for, and when to ask
// again. It wraps ErrUnavailable.
type BusyError struct{ After time.Duration }

// Error implements error. Its end is what busyIn reads at the other side.
func (e *BusyError) Error() string {
	return fmt.Sprintf("%v: too many uploads at once%s%s", starling.ErrUnavailable, againText, e.After.Round(time.Millisecond))
}

// Unwrap makes it an ErrUnavailable.
func (e *BusyError) Unwrap() error { return starling.ErrUnavailable }

// AskAgainAfter returns how long a busy peer asked to be left alone; 0: it did not.
func AskAgainAfter(err error) time.Duration {
	var busy *BusyError
	if errors.As(err, &busy) {
		return busy.After
	}
	return 0
}

const againText = ": ask again in "

// busyIn finds when to ask again in what a peer says for people, which programs without
// BusyError read as well; nil: it does not say.
func busyIn(text string) *BusyError {
	_, at, ok := strings.Cut(text, againText)
	if !ok {
		return nil
	}
	d, err := time.ParseDuration(at)
	if err != nil || d <= 0 {
		return nil
	}
	return &BusyError{After: min(d, maxAgain)}
}
