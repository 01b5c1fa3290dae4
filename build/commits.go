package build

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// commitsWithin bounds the look at what a commit brings; a build never fails for it.
const commitsWithin = 10 * time.Second

// Fields of a line of git's log: unlikely in a name, and not printable.
const (
	fieldMark    = "\x1f"
	commitFormat = "--format=%h%x1f%an%x1f%ct%x1f%s"
)

// since lists the commits of sha that are not in an earlier one, from the mirror that the
// checkout has brought up to date; nil if there is no earlier one.
func (m *mirrors) since(ctx context.Context, repo, earlier, sha string) *starling.CommitLog {
	if earlier == "" || starling.CheckSHA(earlier) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, commitsWithin, fmt.Errorf("git took longer than %s", commitsWithin))
	defer cancel()
	l := starling.CommitLog{Since: earlier}
	if err := m.list(ctx, repo, earlier, sha, &l); err != nil {
		l.Commits, l.Omitted, l.Problem = nil, 0, err.Error()
	}
	l = l.Plain()
	return &l
}

func (m *mirrors) list(ctx context.Context, repo, earlier, sha string, l *starling.CommitLog) error {
	name := mirrorName(repo, sha)
	unlock, err := m.locks.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(m.dir, name)
	if !m.has(ctx, path, earlier) {
		return fmt.Errorf("commit %.12s, which runs now, is not in the repository any more", earlier)
	}
	out, err := m.git.run(ctx, path, nil, "rev-list", "--left-right", "--count", earlier+"..."+sha)
	if err != nil {
		return err
	}
	total := 0
	if _, err := fmt.Sscan(out, &l.Removed, &total); err != nil {
		return fmt.Errorf("count the commits: %w", err)
	}
	// The oldest first: of a long output the end is kept.
	out, err = m.git.run(ctx, path, nil, "log", "--no-color", "--reverse", "--abbrev="+strconv.Itoa(starling.CommitShortBytes),
		"--max-count="+strconv.Itoa(starling.MaxCommits), commitFormat, earlier+".."+sha)
	if err != nil {
		return err
	}
	if len(out) >= maxGitOutputBytes { // it may begin in the middle of a line
		_, out, _ = strings.Cut(out, "\n")
	}
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), fieldMark, 4)
		if len(f) < 4 {
			continue
		}
		seconds, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			continue
		}
		l.Commits = append(l.Commits, starling.Commit{SHA: f[0], Author: f[1], At: time.Unix(seconds, 0).UTC(), Subject: f[3]})
	}
	slices.Reverse(l.Commits)
	l.Omitted = total - len(l.Commits)
	return nil
}
