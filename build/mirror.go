package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// mirrors keeps one bare repository per URL. What has been fetched once is never
// fetched again.
type mirrors struct {
	dir   string
	git   *git
	locks *locks
}

// mirrorName tells apart URLs and, by the length of the SHA, git's two object formats.
func mirrorName(repo, sha string) string {
	sum := sha256.Sum256([]byte(repo))
	return fmt.Sprintf("%x-%s", sum[:16], objectFormat(sha))
}

func objectFormat(sha string) string {
	if len(sha) == 64 {
		return "sha256"
	}
	return "sha1"
}

// checkout writes the files of a commit into the existing, empty directory dst, with
// no .git beside them. It uses scratch for an index file. It returns the commit's
// time. Its errors are fit for people and hold no secret.
func (m *mirrors) checkout(ctx context.Context, repo, sha, scratch, dst string) (time.Time, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gitTimeout, fmt.Errorf("git took longer than %s", gitTimeout))
	defer cancel()
	name := mirrorName(repo, sha)
	unlock, err := m.locks.lock(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	defer unlock()
	path := filepath.Join(m.dir, name)
	var at time.Time
	for attempt := 0; ; attempt++ {
		at, err = m.attempt(ctx, path, repo, sha, scratch, dst)
		if err == nil || attempt > 0 || ctx.Err() != nil || !looksBroken(err) {
			return at, err
		}
		// A power cut may have left a mirror that git cannot use: make it anew, once.
		if err := errors.Join(removeTree(path), emptyDir(dst)); err != nil {
			return time.Time{}, fmt.Errorf("replacing the broken mirror of %s: %w", redact(repo), err)
		}
	}
}

func (m *mirrors) attempt(ctx context.Context, path, repo, sha, scratch, dst string) (time.Time, error) {
	if err := m.open(ctx, path, sha); err != nil {
		return time.Time{}, err
	}
	if !m.has(ctx, path, sha) {
		if err := m.fetch(ctx, path, repo, sha); err != nil {
			return time.Time{}, err
		}
	}
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(scratch, "index"), "GIT_WORK_TREE=" + dst}
	if _, err := m.git.run(ctx, path, env, "read-tree", sha); err != nil {
		return time.Time{}, fmt.Errorf("checkout of %s: %w", sha, err)
	}
	if _, err := m.git.run(ctx, path, env, "checkout-index", "--all", "--quiet"); err != nil {
		return time.Time{}, fmt.Errorf("checkout of %s: %w", sha, err)
	}
	out, err := m.git.run(ctx, path, nil, "show", "--no-patch", "--format=%ct", sha)
	if err != nil {
		return time.Time{}, fmt.Errorf("checkout of %s: %w", sha, err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of commit %s: %w", sha, err)
	}
	return time.Unix(seconds, 0), nil
}

// open makes sure that there is a mirror at path and marks it as used now.
func (m *mirrors) open(ctx context.Context, path, sha string) error {
	if _, err := os.Stat(filepath.Join(path, "HEAD")); err != nil {
		if err := removeTree(path); err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
		if _, err := m.git.run(ctx, path, nil, "init", "--quiet", "--bare", "--object-format="+objectFormat(sha)); err != nil {
			return err
		}
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

func (m *mirrors) has(ctx context.Context, path, sha string) bool {
	_, err := m.git.run(ctx, path, nil, "cat-file", "-e", sha+"^{commit}")
	return err == nil
}

// fetch brings the commit: by itself where the far side allows it, else with all
// branches and tags. One ref per first byte of a SHA keeps the commits that were
// fetched by themselves known to the next negotiation, 256 at most.
func (m *mirrors) fetch(ctx context.Context, path, repo, sha string) error {
	const quiet, noTags = "--quiet", "--no-tags"
	one := fmt.Sprintf("+%s:refs/starling/%s", sha, sha[:2])
	_, oneErr := m.git.run(ctx, path, nil, "fetch", quiet, noTags, "--no-write-fetch-head", "--end-of-options", repo, one)
	if oneErr == nil {
		if m.has(ctx, path, sha) {
			return m.tidy(ctx, path)
		}
		return fmt.Errorf("%s is not a commit of %s", sha, redact(repo))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("fetch from %s: %w", redact(repo), context.Cause(ctx))
	}
	_, err := m.git.run(ctx, path, nil, "fetch", quiet, noTags, "--no-write-fetch-head", "--prune", "--end-of-options", repo,
		"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("fetch from %s: %w", redact(repo), context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("cannot fetch from repository %s: %w", redact(repo), err)
	case !m.has(ctx, path, sha):
		return fmt.Errorf("commit %s is not in %s (fetched all branches and tags); git said: %w", sha, redact(repo), oneErr)
	}
	return m.tidy(ctx, path)
}

// tidy repacks the mirror when many fetches have left many packs.
func (m *mirrors) tidy(ctx context.Context, path string) error {
	if _, err := m.git.run(ctx, path, nil, "gc", "--auto", "--quiet"); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

// unlockAll removes the lock files that a git which was killed has left. Call it while
// nobody runs git here.
func (m *mirrors) unlockAll() error {
	return filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "objects":
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, ".lock"):
			return os.Remove(path)
		}
		return nil
	})
}

// looksBroken reports whether git complained of our mirror rather than of the far side.
func looksBroken(err error) bool {
	var g *gitError
	if !errors.As(err, &g) {
		return false
	}
	for _, sign := range []string{".lock': File exists", "not a git repository", "corrupt", "bad object",
		"loose object", "unable to read", "missing blob", "missing tree", "bad tree", "invalid sha1 pointer", "index file"} {
		if strings.Contains(g.said, sign) {
			return true
		}
	}
	return false
}
