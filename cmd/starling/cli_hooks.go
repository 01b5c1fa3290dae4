package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// printHooks tells how the hooks that run once stand, one a line.
func printHooks(w io.Writer, d *starling.Deployment) error {
	for i := range d.Hooks {
		if _, err := fmt.Fprintln(w, "  hook "+hookText(&d.Hooks[i])); err != nil {
			return err
		}
	}
	return nil
}

func hookText(h *starling.HookRun) string {
	parts := []string{h.Name(), string(h.State)}
	if h.Worker != "" {
		parts = append(parts, "on worker "+strings.TrimSuffix(h.Worker, "/hook")+" of "+h.Region)
	}
	if !h.BeganAt.IsZero() && !h.EndedAt.IsZero() {
		parts = append(parts, "in "+h.EndedAt.Sub(h.BeganAt).Round(time.Millisecond).String())
	}
	if h.Attempt > 1 {
		parts = append(parts, fmt.Sprintf("(attempt %d)", h.Attempt))
	}
	return strings.Join(parts, " ")
}
