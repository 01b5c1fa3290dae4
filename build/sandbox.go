package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where things are inside the sandbox.
const (
	inSrc   = "/src"
	inCache = "/cache"
	inTmp   = "/tmp"
	inHome  = "/home/build"

	buildUID      = "1000"
	shmBytes      = 64 << 20
	probeTimeout  = 20 * time.Second
	defaultPath   = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	notInstalled  = "bubblewrap is not installed on this worker"
	turnedOff     = "the sandbox is turned off on this worker"
	sandboxedText = "sandboxed by bubblewrap"
)

// etc lists what a build sees of the system's /etc: the loader, certificates, names of
// alternatives; no keys, no accounts.
var etc = [...]string{
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
	"/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/ca-trust", "/etc/pki/tls/certs",
	"/etc/mime.types", "/etc/protocols", "/etc/services",
}

// box runs commands of builds: in bubblewrap, or plainly where that does not work.
type box struct {
	bwrap    string // empty: no sandbox
	noNested bool   // bubblewrap can forbid further user namespaces
	why      string // for people: sandboxed, or why not
	prlimit  string // empty: not installed
	path     string
	readOnly []string
}

// newBox finds out what works here.
func newBox(ctx context.Context, cfg *Config) (*box, error) {
	b := &box{why: turnedOff, path: cfg.Path + ":" + defaultPath, readOnly: cfg.ReadOnlyPaths}
	if p, err := exec.LookPath("prlimit"); err == nil {
		b.prlimit = p
	}
	if cfg.Sandbox == SandboxOff {
		return b, nil
	}
	b.tryBwrap(ctx, cfg)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("build: trying the sandbox: %w", context.Cause(ctx))
	}
	if b.bwrap == "" && cfg.Sandbox == SandboxRequire {
		return nil, fmt.Errorf("build: a sandbox is required, but %s", b.why)
	}
	return b, nil
}

// tryBwrap turns the sandbox on if bubblewrap is installed and works.
func (b *box) tryBwrap(ctx context.Context, cfg *Config) {
	program, err := exec.LookPath("bwrap")
	if err != nil {
		b.why = notInstalled
		return
	}
	trial := *b
	trial.bwrap, trial.why, trial.path, trial.noNested = program, sandboxedText, b.visiblePath(cfg.Path), true
	err = trial.probe(ctx, cfg.DataDir)
	if err != nil {
		trial.noNested = false // bubblewrap before 0.8 does not know the option
		err = trial.probe(ctx, cfg.DataDir)
	}
	if err != nil {
		b.why = "bubblewrap does not work on this worker: " + err.Error()
		return
	}
	*b = trial
}

func (b *box) sandboxed() bool { return b.bwrap != "" }

// visiblePath leaves out directories that a build would not see.
func (b *box) visiblePath(path string) string {
	var out []string
	for _, dir := range append(filepath.SplitList(path), filepath.SplitList(defaultPath)...) {
		if filepath.IsAbs(dir) && b.sees(filepath.Clean(dir)) && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return strings.Join(out, ":")
}

func (b *box) sees(dir string) bool {
	for _, root := range append([]string{"/usr", "/bin", "/sbin"}, b.readOnly...) {
		if dir == root || strings.HasPrefix(dir, filepath.Clean(root)+"/") {
			return true
		}
	}
	return false
}

// probe runs the shell in a sandbox like that of a build.
func (b *box) probe(ctx context.Context, dataDir string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	dir, err := os.MkdirTemp(dataDir, "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeTree(dir)) }()
	ws := workspace{dir: dir, cache: filepath.Join(dir, "cache")}
	if err := ws.make(); err != nil {
		return err
	}
	log := newBuildLog()
	c := command{argv: []string{"/bin/sh", "-c", "true"}, ws: ws, mark: "probe", diskBytes: 1 << 30, memoryBytes: 1 << 30}
	if err := b.run(ctx, &c, log); err != nil {
		return fmt.Errorf("%w: %s", err, log.lastLines(3, 300))
	}
	return nil
}

// command is what to run in a workspace, with its limits.
type command struct {
	argv        []string
	ws          workspace
	env         map[string]string // beside what every build has
	mark        string
	network     bool
	memoryBytes int64
	diskBytes   int64
	cgroup      *cgroup
}

// run runs the command with its output going to log, and removes its cgroup. See
// task.run for its errors.
func (b *box) run(ctx context.Context, c *command, log *buildLog) error {
	t := task{mark: c.mark, output: log, memoryBytes: c.memoryBytes, maxProcesses: maxProcesses, cgroup: c.cgroup}
	if b.prlimit != "" {
		var fsize unix.Rlimit // a hard limit cannot be raised
		if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &fsize); err != nil {
			return errors.Join(fmt.Errorf("sandbox: %w", err), c.cgroup.remove())
		}
		t.argv = []string{b.prlimit, "--core=0", fmt.Sprintf("--fsize=%d", min(uint64(c.diskBytes), fsize.Max)), "--"}
	}
	if !b.sandboxed() {
		env := b.environment(c, c.ws.src(), c.ws.cache, c.ws.tmp(), c.ws.home())
		for _, k := range slices.Sorted(maps.Keys(env)) {
			t.env = append(t.env, k+"="+env[k])
		}
		program, err := lookPath(c.argv[0], c.ws.src(), env["PATH"])
		if err != nil {
			return errors.Join(err, c.cgroup.remove())
		}
		t.dir = c.ws.src()
		t.argv = append(append(t.argv, program), c.argv[1:]...)
		return t.run(ctx)
	}
	args, err := memfile(b.bwrapArgs(c))
	if err != nil {
		return errors.Join(err, c.cgroup.remove())
	}
	defer args.Close()
	t.args, t.info, t.dir = args, true, "/"
	t.env = []string{"PATH=" + defaultPath} // never the app's: bubblewrap itself runs outside
	t.argv = append(append(t.argv, b.bwrap, "--args", "3", "--info-fd", "4", "--"), c.argv...)
	return t.run(ctx)
}

// environment returns all variables of a build, given its directories as it sees them.
func (b *box) environment(c *command, src, cache, tmp, home string) map[string]string {
	env := map[string]string{
		"PATH":                 b.path,
		"HOME":                 home,
		"TMPDIR":               tmp,
		"LANG":                 "C.UTF-8",
		"USER":                 "build",
		"PWD":                  src,
		"CI":                   "true",
		"XDG_CACHE_HOME":       cache,
		"GOCACHE":              cache + "/go-build",
		"GOMODCACHE":           cache + "/go-mod",
		"GOPATH":               cache + "/go",
		"GOFLAGS":              "-modcacherw",
		"npm_config_cache":     cache + "/npm",
		"npm_config_store_dir": cache + "/pnpm",
		"YARN_CACHE_FOLDER":    cache + "/yarn",
		"PIP_CACHE_DIR":        cache + "/pip",
		"CARGO_HOME":           cache + "/cargo",
		"CCACHE_DIR":           cache + "/ccache",
		"GRADLE_USER_HOME":     cache + "/gradle",
	}
	maps.Copy(env, c.env)
	return env
}

// bwrapArgs returns bubblewrap's options for a build.
func (b *box) bwrapArgs(c *command) []string {
	args := []string{
		"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--uid", buildUID, "--gid", buildUID, "--hostname", "starling-build",
		"--die-with-parent", "--new-session", "--clearenv",
	}
	if b.noNested {
		args = append(args, "--disable-userns")
	}
	if !c.network {
		args = append(args, "--unshare-net")
	}
	args = append(args, "--ro-bind", "/usr", "/usr")
	for _, p := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if target, err := os.Readlink(p); err == nil {
			args = append(args, "--symlink", target, p)
		} else {
			args = append(args, "--ro-bind-try", p, p)
		}
	}
	for _, p := range etc {
		args = append(args, "--ro-bind-try", p, p)
	}
	own := []string{"passwd", "group", "nsswitch.conf", "hosts"}
	if c.network {
		own = own[:3]
		args = append(args, "--ro-bind-try", "/etc/hosts", "/etc/hosts", "--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf")
	}
	for _, name := range own {
		args = append(args, "--ro-bind", filepath.Join(c.ws.etc(), name), "/etc/"+name)
	}
	for _, p := range b.readOnly {
		args = append(args, "--ro-bind", p, p)
	}
	// What a build can write lies on disk and is counted, or is small, or is read-only.
	// So is /proc: under a worker that is root, the build's user may write the kernel's
	// settings in /proc/sys, and bubblewrap leaves them open.
	args = append(args, "--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev",
		"--size", fmt.Sprint(shmBytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
		"--bind", c.ws.tmp(), inTmp, "--bind", c.ws.home(), inHome,
		"--bind", c.ws.cache, inCache, "--bind", c.ws.src(), inSrc, "--chdir", inSrc,
		"--symlink", inTmp, "/var/tmp", "--remount-ro", "/")
	env := b.environment(c, inSrc, inCache, inTmp, inHome)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		args = append(args, "--setenv", k, env[k])
	}
	return args
}

// memfile returns a file in memory that holds args, each ended by a zero byte: the
// environment of a build does not belong in a command line that every user can read.
func memfile(args []string) (*os.File, error) {
	fd, err := unix.MemfdCreate("bwrap-args", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	f := os.NewFile(uintptr(fd), "bwrap-args")
	var b bytes.Buffer
	for _, a := range args {
		b.WriteString(a)
		b.WriteByte(0)
	}
	if _, err := f.WriteAt(b.Bytes(), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("sandbox: %w", err), f.Close())
	}
	return f, nil
}

// lookPath finds a program as the build would: with a slash below its directory, else in path.
func lookPath(name, dir, path string) (string, error) {
	tries := []string{name}
	if !strings.Contains(name, "/") {
		tries = tries[:0]
		for _, p := range filepath.SplitList(path) {
			tries = append(tries, filepath.Join(p, name))
		}
	}
	for _, p := range tries {
		if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %q to run", name)
}
