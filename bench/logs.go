package bench

import (
	"bufio"
	"bytes"
	"regexp"
	"strconv"
	"time"
)

// What an agent logs when it holds every byte, verified, and when all is on disk.
const (
	msgFetched  = "artifact fetched"
	msgComplete = "artifact complete"
)

var loggedTime = regexp.MustCompile(`time=(\S+)`)

// logged returns the first line of a process's log with a message, from a time on, and
// its time; nil and zero: there is none.
func logged(log []byte, msg string, from time.Time) ([]byte, time.Time) {
	lines := bufio.NewScanner(bytes.NewReader(log))
	want := []byte(`msg="` + msg + `"`)
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), want) {
			continue
		}
		if m := loggedTime.FindSubmatch(lines.Bytes()); m != nil {
			if at, err := time.Parse(time.RFC3339Nano, string(m[1])); err == nil && !at.Before(from) {
				return lines.Bytes(), at
			}
		}
	}
	return nil, time.Time{}
}

// loggedAt returns when a process first logged a message, from a time on; zero: never.
func loggedAt(log []byte, msg string, from time.Time) time.Time {
	_, at := logged(log, msg, from)
	return at
}

var loggedSources = regexp.MustCompile(`cache_bytes=(\d+) peer_bytes=(\d+)`)

// loggedBytes returns what a machine fetched of the artifact that it completed first, from
// a time on, if it says so.
func loggedBytes(log []byte, from time.Time) (cache, peer int64, ok bool) {
	line, _ := logged(log, msgComplete, from)
	m := loggedSources.FindSubmatch(line)
	if m == nil {
		return 0, 0, false
	}
	cache, err1 := strconv.ParseInt(string(m[1]), 10, 64)
	peer, err2 := strconv.ParseInt(string(m[2]), 10, 64)
	return cache, peer, err1 == nil && err2 == nil
}
