package build

import (
	"fmt"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestCommitsSinceTheReleaseThatRuns(t *testing.T) {
	repo := newRepo(t)
	first := repo.commit("f", "1")
	repo.git("commit", "--quiet", "--allow-empty", "-m", "the second\x1b[31m\ttwo")
	repo.git("checkout", "--quiet", "-b", "side", first)
	side := repo.commit("f", "side")
	repo.git("checkout", "--quiet", "main")
	third := repo.commit("f", "3")
	r := newRig(t, SandboxOff)
	r.open(t)
	for _, sha := range []string{third, side} {
		if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
			t.Fatal(err)
		}
	}
	since := func(earlier, sha string) *starling.CommitLog {
		return r.worker.mirrors.since(t.Context(), repo.dir, earlier, sha)
	}
	l := since(first, third)
	if l.Problem != "" || len(l.Commits) != 2 || l.Since != first || l.Omitted != 0 || l.Removed != 0 ||
		l.Commits[0].SHA != third[:starling.CommitShortBytes] || l.Commits[1].Subject != "the second[31mtwo" || l.Commits[0].Author != "t" || l.Commits[0].At.Unix() != 1700000000 {
		t.Errorf("%+v", l)
	}
	if l := since(side, third); len(l.Commits) != 2 || l.Removed != 1 {
		t.Errorf("off another branch: %+v", l)
	}
	if l := since(third, first); len(l.Commits) != 0 || l.Removed != 2 || l.Problem != "" {
		t.Errorf("backwards: %+v", l)
	}
	if l := since(third, third); len(l.Commits)+l.Removed+l.Omitted != 0 || l.Problem != "" {
		t.Errorf("the same: %+v", l)
	}
	if l := since(strings.Repeat("0", 40), third); !strings.Contains(l.Problem, "not in the repository") {
		t.Errorf("since nothing: %+v", l)
	}
	if l := since("", third); l != nil {
		t.Errorf("of the first release: %+v", l)
	}
	var script strings.Builder // of git fast-import: quicker than 150 commits
	for i := range 150 {
		msg := fmt.Sprintf("commit %d %s", i, strings.Repeat("x", 200))
		fmt.Fprintf(&script, "commit refs/heads/main\ncommitter t <t@example.com> %d +0000\ndata %d\n%s\n", 1700000001+i, len(msg), msg)
		if i == 0 {
			fmt.Fprintf(&script, "from %s\n", third)
		}
	}
	repo.feed(script.String(), "fast-import", "--quiet")
	tip := repo.git("rev-parse", "main")
	if _, err := checkoutOf(t, r, repo.dir, tip); err != nil {
		t.Fatal(err)
	}
	l = since(third, tip)
	if n := len(l.Commits); n < 10 || n > starling.MaxCommits || n+l.Omitted != 150 || !strings.HasPrefix(l.Commits[0].Subject, "commit 149 ") || !strings.HasPrefix(l.Commits[n-1].Subject, fmt.Sprintf("commit %d ", 150-n)) {
		t.Errorf("of many: %d, %d omitted, %+v", n, l.Omitted, l.Commits)
	}
}
