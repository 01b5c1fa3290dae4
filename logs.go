package starling

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a deployment's log.
const (
	MaxLogSections     = 64            // of a deployment
	MaxLogSectionBytes = MaxChunkBytes // of one: it is stored as one chunk
	maxLogNameBytes    = 100
	maxLogPlaceBytes   = MaxLogSections * (maxLogNameBytes + 20)
)

// LogSection is a piece of a deployment's log that the home's caches hold and that no other
// record names: what a build or a hook had printed whose worker was lost.
type LogSection struct {
	Name  string `json:"name"`
	Log   Digest `json:"log"`
	Bytes int64  `json:"bytes"`
}

// BuildSection is the name of the log of a build: "build.1" for the first attempt.
func BuildSection(attempt int) string { return "build." + strconv.Itoa(attempt) }

// HookSection is the name of the log of a run, from 1, of a hook that runs once:
// "pre.region.us-east", and "pre.region.us-east.2" for the second run.
func HookSection(hook string, run int) string {
	if run > 1 {
		return hook + "." + strconv.Itoa(run)
	}
	return hook
}

// LogPlace says how many bytes of each section of a log have been read. As text, which
// is what Last-Event-ID carries, it is a list like "build.1=300,post.deployment=12".
type LogPlace map[string]int64

func (p LogPlace) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(p)) {
		parts = append(parts, name+"="+strconv.FormatInt(p[name], 10))
	}
	return strings.Join(parts, ",")
}

// ParseLogPlace reads what String gave; "" is the beginning.
func ParseLogPlace(field, s string) (LogPlace, error) {
	out := LogPlace{}
	if s == "" || s == "-" {
		return out, nil
	}
	if len(s) > maxLogPlaceBytes {
		return nil, Invalidf(field, "%d bytes, more than %d", len(s), maxLogPlaceBytes)
	}
	for part := range strings.SplitSeq(s, ",") {
		name, bytes, _ := strings.Cut(part, "=")
		n, err := strconv.ParseInt(bytes, 10, 64)
		if err != nil || n < 0 || CheckLogName(name) != nil {
			return nil, Invalidf(field, "%.40q: want NAME=BYTES,…, the id of a piece of the log", part)
		}
		out[name] = n
	}
	if len(out) > MaxLogSections {
		return nil, Invalidf(field, "%d sections, more than %d", len(out), MaxLogSections)
	}
	return out, nil
}

// CheckLogName refuses what cannot be the name of a section: letters, digits, dots, dashes.
func CheckLogName(name string) error {
	ok := name != "" && len(name) <= maxLogNameBytes && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
	if !ok {
		return fmt.Errorf("section %.80q: use lower-case letters, digits, dots and dashes, %d at most", name, maxLogNameBytes)
	}
	return nil
}

// LogChunk is a piece of one section of a log.
type LogChunk struct {
	Section string
	Offset  int64 // of Data in the section
	Data    []byte
	// Lost says why nothing more of the section can be shown, although there was more.
	Lost string
}

// LogNews is what there is of a log after a place.
type LogNews struct {
	Chunks []LogChunk
	Done   bool // nothing will follow
}
