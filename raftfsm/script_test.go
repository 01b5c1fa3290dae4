package raftfsm

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

var rewrite = flag.Bool("rewrite", false, "write what the transcripts give now into testdata")

// TestTranscripts plays testdata/*.txt. A transcript is blocks of lines, "----" and
// the expected output. A line is a command, its payload as path=value pairs (a value
// is JSON or plain text; sha(x) and art(x) stand for made-up names), or one of:
//
//	entry                 the commands after it in the block share one log entry
//	in REGION             go on in that region's state
//	clock +10s            move the proposer's clock (also backwards)
//	pull HOME             apply what changed in HOME since the last pull
//	reload                go on with a state restored from a snapshot of this one
//	show KIND [NAME]      print records
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newStage().play(string(b))
			if *rewrite {
				err = os.WriteFile(file, []byte(got), 0o644)
			} else if got != string(b) {
				err = fmt.Errorf("the transcript differs (go test -run Transcripts -rewrite, then look at the diff):\n%s", firstDiff(string(b), got))
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// stage holds the regions of a transcript.
type stage struct {
	fsms  map[string]*FSM
	index map[string]uint64
	here  string
	clock time.Time
	actor string
	log   map[string][][]byte // entries by region
}

func newStage() *stage {
	s := &stage{fsms: map[string]*FSM{}, index: map[string]uint64{}, log: map[string][][]byte{}, clock: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC), actor: "ann"}
	s.enter("east")
	return s
}

func (s *stage) enter(region string) {
	s.here = region
	if s.fsms[region] == nil {
		s.fsms[region] = New(region)
	}
}

// play returns the transcript with the output that it gives.
func (s *stage) play(text string) string {
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		input, _, _ := strings.Cut(block+"\n", "\n----\n")
		input = strings.TrimRight(input, "\n")
		out.WriteString(input + "\n")
		if result := s.block(strings.Split(input, "\n")); result != "" {
			out.WriteString("----\n" + result)
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func (s *stage) block(lines []string) string {
	var out strings.Builder
	var shared []Command
	share := false
	for _, l := range lines {
		f := strings.Fields(l)
		switch {
		case len(f) == 0 || strings.HasPrefix(l, "#"):
		case f[0] == "entry":
			share = true
		case strings.Contains(f[0], "."):
			c := s.command(f)
			if shared = append(shared, c); !share {
				out.WriteString(s.propose(shared))
				shared = nil
			}
		default:
			out.WriteString(s.direct(f))
		}
	}
	if len(shared) > 0 {
		out.WriteString(s.propose(shared))
	}
	return out.String()
}

var madeUp = regexp.MustCompile(`(sha|art)\((\w+)\)`)

func (s *stage) command(f []string) Command {
	payload := map[string]any{}
	for _, pair := range f[1:] {
		path, text, _ := strings.Cut(pair, "=")
		text = madeUp.ReplaceAllStringFunc(text, func(m string) string {
			d := starling.DigestOf([]byte(m[4 : len(m)-1]))
			if m[:3] == "sha" {
				return d.Hex()[:40]
			}
			return d.String()
		})
		var v any
		if json.Unmarshal([]byte(text), &v) != nil {
			v = text
		}
		m, keys := payload, strings.Split(path, ".")
		for _, k := range keys[:len(keys)-1] {
			if m[k] == nil {
				m[k] = map[string]any{}
			}
			m = m[k].(map[string]any)
		}
		m[keys[len(keys)-1]] = v
	}
	b, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	c := Command{Type: Type(f[0]), At: s.clock, Actor: s.actor, Data: b}
	if _, picks := payload["deployment"]; picks && c.Type == TypeJobLease {
		c.Level = LevelPicks
	}
	return c
}

func (s *stage) propose(cmds []Command) string {
	b, err := json.Marshal(Entry{EntryVersion, cmds})
	if err != nil {
		panic(err)
	}
	s.index[s.here]++
	s.log[s.here] = append(s.log[s.here], b)
	var out strings.Builder
	for _, r := range s.fsms[s.here].Apply(&raft.Log{Index: s.index[s.here], Data: b}).([]Result) {
		out.WriteString(fmt.Sprintf("%d ", r.Index) + resultText(r) + "\n")
	}
	return out.String()
}

func (s *stage) direct(f []string) string {
	fsm := s.fsms[s.here]
	switch f[0] {
	case "in":
		s.enter(f[1])
		return ""
	case "clock":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			panic(err)
		}
		s.clock = s.clock.Add(d)
		return ""
	case "pull":
		m := s.fsms[f[1]].View().ChangedSince(f[1], fsm.View().MirrorIndex(f[1]))
		c, err := NewCommand(TypeMirror, s.clock, "", Mirror{m})
		if err != nil {
			panic(err)
		}
		return s.propose([]Command{c})
	case "reload":
		s.fsms[s.here] = New(s.here)
		if err := s.fsms[s.here].Restore(bytesOf(fsm)); err != nil {
			return err.Error() + "\n"
		}
		return ""
	case "show":
		return show(fsm.View(), f[1], append(f[2:], "")[0])
	}
	return "what is " + strconv.Quote(f[0]) + "?\n"
}

func resultText(r Result) string {
	for _, e := range []error{starling.ErrNotFound, starling.ErrConflict, starling.ErrFenced, starling.ErrUnavailable, starling.ErrForbidden} {
		if errors.Is(r.Err, e) {
			return "REFUSED " + r.Err.Error()
		}
	}
	switch {
	case starling.IsInvalid(r.Err):
		return "INVALID " + r.Err.Error()
	case r.Err != nil:
		return "ERROR OF NO KIND " + r.Err.Error()
	}
	out := "ok"
	if r.Created {
		out += " created"
	}
	if r.App != nil {
		out += fmt.Sprintf(" app %s@%s revision %d", r.App.Name, r.App.Home, r.App.Revision)
	}
	if r.Deployment != nil {
		out += " " + deploymentText(r.Deployment)
	}
	if r.Artifact != nil {
		out += " " + artifactText(r.Artifact)
	}
	if r.Takeover != nil {
		out += fmt.Sprintf(" takeover of %s by %s epoch %d %s", r.Takeover.From, r.Takeover.To, r.Takeover.Epoch, r.Takeover.Stage)
	}
	if r.Ballot != nil {
		out += fmt.Sprintf(" vote for %s about %s epoch %d", r.Ballot.Candidate, r.Ballot.Lost, r.Ballot.Epoch)
	}
	if r.Token != nil {
		out += fmt.Sprintf(" token %s %s revoked=%v", r.Token.ID, r.Token.Role, r.Token.Revoked)
	}
	if r.Machine != nil {
		out += " " + machineText(r.Machine)
	}
	if r.Cell != nil {
		out += " " + cellText(r.Cell)
	}
	if r.JoinToken != nil {
		out += " " + joinTokenText(r.JoinToken)
	}
	return out
}

func firstDiff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		if i >= len(w) || i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %q\ngot  %q", i+1, append(w, make([]string, len(g))...)[i], append(g, make([]string, len(w))...)[i])
		}
	}
	return ""
}
