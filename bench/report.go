package bench

import (
	"io"
	"time"
)

// About says how and where a result came about.
type About struct {
	Command, Version string
	At               time.Time
}

// WriteReport writes a result as one HTML page.
func WriteReport(w io.Writer, res *SwarmResult, about About) error { return nil }
