package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxGitOutputBytes = 8 << 10 // kept of what one git command prints
	gitGrace          = 2 * time.Second
)

// gitConfig is all the configuration that git reads: no hooks, no helpers, no
// protocols but ours, no work in the background. Who owns a repository on disk does
// not matter, since nothing in it is run.
const gitConfig = `# Written by starling at every start.
[core]
	hooksPath = /dev/null
	fsmonitor = false
	askPass = /bin/false
[safe]
	directory = *
	bareRepository = explicit
[protocol]
	allow = never
[protocol "https"]
	allow = always
[protocol "ssh"]
	allow = always
[protocol "git"]
	allow = always
[protocol "file"]
	allow = %s
[protocol "ext"]
	allow = never
[http]
	followRedirects = initial
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[gc]
	auto = 1000
	autoPackLimit = 100
	autoDetach = false
[maintenance]
	auto = false
[fetch]
	unpackLimit = 1
[advice]
	detachedHead = false
`

// git runs the git program with settings of our own.
type git struct {
	program    string
	configFile string
	env        []string
	minFree    int64
}

// newGit finds git and writes its settings below dir.
func newGit(dir string, cfg *Config) (*git, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("build: a worker needs git: %w", err)
	}
	g := &git{program: program, configFile: filepath.Join(dir, "gitconfig"), minFree: cfg.MinFreeBytes}
	file := "never"
	if cfg.AllowFileRepos {
		file = "always"
	}
	text := fmt.Sprintf(gitConfig, file)
	if cfg.GitConfigFile != "" {
		text += fmt.Sprintf("[include]\n\tpath = %q\n", cfg.GitConfigFile)
	}
	if err := os.WriteFile(g.configFile, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("build: git settings: %w", err)
	}
	g.env = []string{
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + g.configFile,
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=/bin/false",
		"SSH_ASKPASS=/bin/false",
		"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15",
		"GIT_SSH_VARIANT=ssh",
		"GIT_NO_REPLACE_OBJECTS=1",
		"GIT_ATTR_NOSYSTEM=1",
		"GIT_OPTIONAL_LOCKS=0",
		"LC_ALL=C",
	}
	for _, name := range []string{"PATH", "HOME", "SSH_AUTH_SOCK", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "GIT_SSL_CAINFO"} {
		if v, ok := os.LookupEnv(name); ok {
			g.env = append(g.env, name+"="+v)
		}
	}
	return g, nil
}

// gitError is a git command that failed, with the end of what it said.
type gitError struct {
	what string
	said string
	err  error
}

func (e *gitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("git %s: %v", e.what, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.what, e.said)
}

func (e *gitError) Unwrap() error { return e.err }

// run runs git in a repository and returns the first bytes of what it printed. When ctx
// ends git is asked to stop, so that it removes its lock files, and soon killed.
func (g *git) run(ctx context.Context, repo string, extraEnv []string, args ...string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, g.program, append([]string{"--git-dir=" + repo}, args...)...)
	cmd.Env = append(append([]string{}, g.env...), extraEnv...)
	cmd.Dir = repo
	var stdout, stderr lastBytes
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = gitGrace
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], errors.Join(context.Cause(ctx), err))
	}
	watched := make(chan struct{})
	go func() { // ends with the command
		defer close(watched)
		for sleep(ctx, time.Second) == nil {
			if err := checkFree(repo, g.minFree); err != nil {
				cancel(err)
				return
			}
		}
	}()
	err := cmd.Wait()
	if ctx.Err() != nil { // its helpers, should they have missed the signal
		if kerr := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); kerr != nil && !errors.Is(kerr, syscall.ESRCH) {
			err = errors.Join(err, kerr)
		}
		err = errors.Join(context.Cause(ctx), err)
	}
	cancel(nil)
	<-watched
	if err != nil {
		return "", &gitError{what: args[0], said: tidy(stderr.String()), err: err}
	}
	return stdout.String(), nil
}

// tidy makes git's words fit for a reason: no secrets, few lines.
func tidy(said string) string {
	said = strings.ToValidUTF8(redact(strings.TrimSpace(said)), "")
	var lines []string
	for l := range strings.SplitSeq(said, "\n") {
		if l = strings.TrimSpace(l[strings.LastIndexByte(l, '\r')+1:]); l != "" {
			lines = append(lines, l)
		}
	}
	s := strings.Join(lines[max(0, len(lines)-6):], "; ")
	return s[max(0, len(s)-800):]
}

// lastBytes is a writer that keeps the last maxGitOutputBytes.
type lastBytes struct{ b bytes.Buffer }

func (w *lastBytes) Write(p []byte) (int, error) {
	w.b.Write(p)
	if over := w.b.Len() - maxGitOutputBytes; over > 0 {
		w.b.Next(over)
	}
	return len(p), nil
}

func (w *lastBytes) String() string { return w.b.String() }

// diskLowError says that the worker itself is short of disk.
type diskLowError struct{ free, floor int64 }

func (e *diskLowError) Error() string {
	return fmt.Sprintf("the worker's disk is nearly full: %d MB free, %d MB must stay free", e.free>>20, e.floor>>20)
}

// checkFree returns a *diskLowError if the file system of dir has less than floor bytes free.
func checkFree(dir string, floor int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < floor {
		return &diskLowError{free, floor}
	}
	return nil
}
