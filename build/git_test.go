package build

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

// checkoutOf checks a commit out into a new directory with the rig's mirrors.
func checkoutOf(t *testing.T, r *rig, repo, sha string) (string, error) {
	t.Helper()
	scratch, dst := t.TempDir(), t.TempDir()
	_, err := r.worker.mirrors.checkout(t.Context(), repo, sha, scratch, dst)
	return dst, err
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCheckoutOfCommits(t *testing.T) {
	repo := newRepo(t)
	old := repo.commit("f", "old")
	repo.git("tag", "v1")
	repo.git("checkout", "--quiet", "-b", "side")
	side := repo.commit("f", "side")
	repo.git("checkout", "--quiet", "main")
	tip := repo.commit("f", "tip", "run", "x")
	tree := repo.git("rev-parse", "HEAD^{tree}")

	for name, config := range map[string]string{
		"commits by themselves": "",
		// Protocol 0 lets nobody ask for commits that no ref points to.
		"whole branches": "[protocol]\n\tversion = 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, SandboxOff)
			r.cfg.GitConfigFile = filepath.Join(t.TempDir(), "more")
			if err := os.WriteFile(r.cfg.GitConfigFile, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			r.open(t)
			for _, c := range []struct{ sha, want string }{{old, "old"}, {side, "side"}, {tip, "tip"}, {old, "old"}} {
				dir, err := checkoutOf(t, r, repo.dir, c.sha)
				if err != nil {
					t.Fatal(err)
				}
				if got := content(t, dir, "f"); got != c.want {
					t.Errorf("%s has %q", c.sha, got)
				}
			}
			dir, err := checkoutOf(t, r, "file://"+repo.dir, tip)
			if err != nil {
				t.Fatal(err)
			}
			if st, err := os.Stat(filepath.Join(dir, "run")); err != nil || st.Mode()&0o111 == 0 {
				t.Errorf("run is not executable: %v", err)
			}

			lacking := strings.Repeat("ab", 20)
			_, err = checkoutOf(t, r, repo.dir, lacking)
			if err == nil || !strings.Contains(err.Error(), "commit "+lacking+" is not in "+repo.dir+" (fetched all branches and tags)") {
				t.Errorf("lacking commit: %v", err)
			}
			if _, err := checkoutOf(t, r, repo.dir, tree); err == nil {
				t.Error("a tree was checked out as a commit")
			}
		})
	}
}

func TestSecondCheckoutNeedsNoRepository(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	r := newRig(t, SandboxOff)
	if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(repo.dir, repo.dir+"-gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
		t.Errorf("the mirror holds the commit: %v", err)
	}
}

func TestCheckoutOfSHA256Repository(t *testing.T) {
	repo := newRepo(t)
	repo.git("init", "--quiet", "--object-format=sha256", "--initial-branch=main", "s")
	repo.dir = filepath.Join(repo.dir, "s")
	sha := repo.commit("f", "x")
	if len(sha) != 64 {
		t.Fatalf("SHA %q", sha)
	}
	dir, err := checkoutOf(t, newRig(t, SandboxOff), repo.dir, sha)
	if err != nil {
		t.Fatal(err)
	}
	if content(t, dir, "f") != "x" {
		t.Error("wrong content")
	}
}

func TestBrokenMirrorIsMadeAnew(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	r := newRig(t, SandboxOff)
	if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
		t.Fatal(err)
	}
	mirror := filepath.Join(r.worker.mirrors.dir, mirrorName(repo.dir, sha))
	breaks := map[string]func() error{
		"half made": func() error { return os.RemoveAll(filepath.Join(mirror, "objects")) },
		"stale lock": func() error {
			sha = repo.commit("f", "y") // must be fetched into the locked ref
			return os.WriteFile(filepath.Join(mirror, "refs", "starling", sha[:2]+".lock"), nil, 0o600)
		},
		"damaged packs": func() error {
			packs, err := filepath.Glob(filepath.Join(mirror, "objects", "pack", "*.pack"))
			if err != nil || len(packs) == 0 {
				return errors.Join(err, errors.New("no packs"))
			}
			for _, p := range packs {
				if err := errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 40)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, do := range breaks {
		t.Run(name, func(t *testing.T) {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRestartRemovesStaleLocks(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	r := newRig(t, SandboxOff)
	if _, err := checkoutOf(t, r, repo.dir, sha); err != nil {
		t.Fatal(err)
	}
	mirror := filepath.Join(r.worker.mirrors.dir, mirrorName(repo.dir, sha))
	for _, name := range []string{"packed-refs.lock", "refs/starling/ab.lock"} {
		if err := os.WriteFile(filepath.Join(mirror, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.worker.sweep(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"packed-refs.lock", "refs/starling/ab.lock"} {
		if _, err := os.Stat(filepath.Join(mirror, name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
	if !r.worker.mirrors.has(t.Context(), mirror, sha) {
		t.Error("the mirror is gone")
	}
}

func TestUnreachableRepositories(t *testing.T) {
	r := newRig(t, SandboxOff)
	sha := strings.Repeat("ab", 20)
	for _, url := range []string{
		"https://user:hunter2@127.0.0.1:1/r.git",
		"git://127.0.0.1:1/r.git",
		filepath.Join(t.TempDir(), "nowhere"),
	} {
		_, err := checkoutOf(t, r, url, sha)
		if err == nil || !strings.Contains(err.Error(), "cannot fetch from repository ") {
			t.Errorf("%s: %v", url, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "user") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	job := jobFor(filepath.Join(t.TempDir(), "nowhere"), sha, "true")
	build(t, SandboxOff, job).mustFail(t, "cannot fetch from repository ", "nowhere")
}

// TestFetchEndsWithItsContext has a server that takes the call and says nothing.
func TestFetchEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r := newRig(t, SandboxOff)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("because")
	done := make(chan error, 1)
	go func() {
		_, err := r.worker.mirrors.checkout(ctx, "git://"+silent.Addr().String()+"/r.git", strings.Repeat("ab", 20), t.TempDir(), t.TempDir())
		done <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if _, err := r.worker.mirrors.checkout(ctx, "git://x/y", strings.Repeat("ab", 20), t.TempDir(), t.TempDir()); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// TestFetchOverHTTPS has git's own server behind a password, and a name and password in the URL.
func TestFetchOverHTTPS(t *testing.T) {
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("git-http-backend is not installed here")
	}
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	serve := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo.dir), "GIT_HTTP_EXPORT_ALL=1"}}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, ok := r.BasicAuth(); !ok || name != "deploy" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		serve.ServeHTTP(w, r)
	}))
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_SSL_CAINFO", ca)
	host := strings.TrimPrefix(srv.URL, "https://")

	job := jobFor("https://deploy:hunter2@"+host+"/repo", sha, "mkdir out; cp f out")
	r := build(t, SandboxAuto, job)
	r.mustComplete(t)
	if log := r.leader.logText(); strings.Contains(log, "hunter2") || !strings.Contains(log, "https://"+host+"/repo") {
		t.Errorf("the log tells a secret, or not the repository:\n%s", log)
	}
	job = jobFor("https://deploy:wrong@"+host+"/repo", sha, "true")
	failed := build(t, SandboxAuto, job).mustFail(t, "cannot fetch from repository https://"+host+"/repo")
	if strings.Contains(failed.Reason, "wrong") {
		t.Errorf("the reason tells a secret: %s", failed.Reason)
	}
}

// TestHostileRepository has hooks, an attribute that wants a filter, a link that leads
// out, and a submodule: nothing of it runs, and nothing is written outside.
func TestHostileRepository(t *testing.T) {
	repo := newRepo(t)
	mark := filepath.Join(t.TempDir(), "ran")
	if err := os.Symlink("/etc/passwd", filepath.Join(repo.dir, "link")); err != nil {
		t.Fatal(err)
	}
	sha := repo.commit(".gitattributes", "* filter=evil\n", "f", "x",
		".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = ext::sh -c 'touch "+mark+"'\n")
	hook := filepath.Join(repo.dir, ".git", "hooks", "post-checkout")
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	repo.git("config", "filter.evil.smudge", "touch "+mark)
	repo.git("config", "uploadpack.packObjectsHook", "touch "+mark)
	dir, err := checkoutOf(t, newRig(t, SandboxOff), repo.dir, sha)
	if err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != "/etc/passwd" {
		t.Errorf("the link is not a link: %q, %v", target, err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("something of the repository was run")
	}
}

func TestCheckRepoURL(t *testing.T) {
	good := []string{
		"https://git.example/r.git", "https://token@git.example/r.git", "ssh://git@git.example:22/r.git",
		"git@git.example:team/r.git", "git.example:r", "git://git.example/r",
	}
	bad := []string{
		"", "-u", "--upload-pack=touch x", "ext::sh -c x", "http://git.example/r", "ftp://git.example/r",
		"https:///r", "https://-oProxyCommand=x/r", "ssh://-oProxyCommand=x/r", "ssh://-x@host/r", "-oProxyCommand=x:r", "x@-h:r",
		"relative/path", "file://host/r", "https://git.example/r\n", "https://git.example/\x00", "fd::17",
		"https://" + strings.Repeat("x", 3000), "https://a:secret word@[::1/x",
	}
	for _, u := range good {
		if err := checkRepoURL(u, false); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	for _, u := range bad {
		for _, file := range []bool{true, false} {
			err := checkRepoURL(u, file)
			if err == nil || !starling.IsInvalid(err) {
				t.Errorf("%q: %v", u, err)
			} else if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		}
	}
	for _, u := range []string{"/srv/git/r", "file:///srv/git/r"} {
		if err := checkRepoURL(u, true); err != nil {
			t.Errorf("%s: %v", u, err)
		}
		if checkRepoURL(u, false) == nil {
			t.Errorf("%s was allowed", u)
		}
	}
}

func FuzzRepoURL(f *testing.F) {
	f.Add("https://user:secret@host/path")
	f.Add("ssh://a@b@c/d")
	f.Add("git@host:path")
	f.Fuzz(func(t *testing.T, u string) {
		if err := checkRepoURL(u, false); err == nil {
			if strings.HasPrefix(u, "-") || strings.Contains(u, "::") && !strings.Contains(u, "://") {
				t.Errorf("%q was allowed", u)
			}
		}
		if rest, ok := strings.CutPrefix(redact("https://name:s3cret@"+strings.Map(noSpace, u)), "https://"); !ok || strings.HasPrefix(rest, "name") {
			t.Errorf("%q tells a secret", rest)
		}
	})
}

func noSpace(r rune) rune {
	if strings.ContainsRune(" \t\r\n\v\f", r) {
		return -1
	}
	return r
}
