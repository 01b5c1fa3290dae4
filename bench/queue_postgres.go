package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
)

// postgres is a PostgreSQL that is installed here. It runs as its own user where this
// process is root, which it refuses to be.
type postgres struct {
	bin     string // folder of its programs
	version string
	user    *syscall.Credential // nil: as this process
	dir     string              // of the cluster that runs
}

// How PostgreSQL is run. The settings that decide on durability (fsync,
// synchronous_commit, full_page_writes) are its defaults: on.
const (
	postgresDir      = "/usr/lib/postgresql"
	postgresUser     = "postgres"
	postgresSettings = `listen_addresses = ''
unix_socket_directories = '%s'
max_connections = 1100
shared_buffers = '256MB'
max_wal_size = '4GB'
autovacuum_naptime = '1s'
`
	// The queue is a heap with room for updates in place, and an index of what waits alone.
	// Vacuum keeps up with it.
	postgresTable = `CREATE TABLE jobs (
  id bigserial PRIMARY KEY, app text NOT NULL, sha text NOT NULL, state smallint NOT NULL DEFAULT 0,
  worker int, created_at timestamptz NOT NULL DEFAULT now(), leased_at timestamptz, ended_at timestamptz, reason text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX jobs_queued ON jobs (id) WHERE state = 0;`
	// Three transactions, each committed before the next begins. A lease that finds nothing, since
	// others were faster, ends nothing: what counts is the jobs that have ended.
	postgresScript = `INSERT INTO jobs (app, sha) VALUES ('queue', '0123456789abcdef0123456789abcdef01234567');
WITH next AS (
  UPDATE jobs SET state = 1, worker = :client_id, leased_at = now()
  WHERE id = (SELECT id FROM jobs WHERE state = 0 ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id
) SELECT coalesce(max(id), 0) AS job FROM next \gset
UPDATE jobs SET state = 2, ended_at = now(), reason = 'the job has ended' WHERE id = :job;
`
)

// findPostgres looks for the newest PostgreSQL with pgbench.
func findPostgres(ctx context.Context) (*postgres, error) {
	missing := func(err error) error {
		return starling.Invalidf("--compare", "PostgreSQL cannot be run (%v): install it, on Debian with `apt-get install postgresql`", err)
	}
	servers, err := filepath.Glob(filepath.Join(postgresDir, "*", "bin", "postgres"))
	if err != nil || len(servers) == 0 {
		if path, err := exec.LookPath("postgres"); err == nil {
			servers = []string{path}
		}
	}
	if len(servers) == 0 {
		return nil, missing(fmt.Errorf("none in %s and none in PATH", postgresDir))
	}
	slices.SortFunc(servers, func(a, b string) int { return majorOf(a) - majorOf(b) })
	pg := &postgres{bin: filepath.Dir(servers[len(servers)-1])}
	for _, program := range []string{"initdb", "pg_ctl", "psql", "pgbench"} {
		if _, err := os.Stat(filepath.Join(pg.bin, program)); err != nil {
			return nil, missing(err)
		}
	}
	if os.Geteuid() == 0 {
		u, err := user.Lookup(postgresUser)
		if err != nil {
			return nil, missing(err)
		}
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uerr, gerr); err != nil {
			return nil, missing(err)
		}
		pg.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	out, err := pg.run(ctx, "/", "postgres", "--version")
	if err != nil {
		return nil, missing(err)
	}
	pg.version = strings.TrimSpace(out)
	return pg, nil
}

// majorOf reads the version in a path like /usr/lib/postgresql/15/bin/postgres; 0: none.
func majorOf(path string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	if err != nil {
		return 0
	}
	return n
}

// run runs one of its programs to the end and returns its output.
func (pg *postgres) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(pg.bin, program), args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + pg.bin + ":" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.user}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// The server that pg_ctl starts keeps the pipes: they are not waited for.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return "", fmt.Errorf("%s: %w: %s", program, err, tailOf(out.String()+errOut.String()))
	}
	return out.String(), nil
}

func tailOf(s string) string { return strings.TrimSpace(s[max(0, len(s)-1000):]) }

// round measures PostgreSQL with each number of clients, in a cluster that lives as long.
func (pg *postgres) round(ctx context.Context, c QueueConfig, samples map[int][]queueSample) (err error) {
	c.Tell.Tell("starting PostgreSQL", 0, 0, "")
	if err := pg.start(ctx, c.Dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.stop()) }()
	for i, n := range c.Clients {
		c.tell("PostgreSQL", i, n)
		s, err := pg.sample(ctx, n, c.Duration)
		if err != nil {
			return fmt.Errorf("%d clients: %w", n, err)
		}
		samples[n] = append(samples[n], s)
	}
	return nil
}

// start makes a new cluster in a folder of its own below dir and runs it.
func (pg *postgres) start(ctx context.Context, dir string) (err error) {
	if pg.dir, err = os.MkdirTemp(dir, "starling-bench-pg-"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(pg.dir))
		}
	}()
	if pg.user != nil {
		if err := os.Chown(pg.dir, int(pg.user.Uid), int(pg.user.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(pg.dir, "data")
	if _, err := pg.run(ctx, pg.dir, "initdb", "--pgdata="+data, "--username=bench", "--auth=trust", "--encoding=UTF8"); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conf, postgresSettings, pg.dir)
	if err := errors.Join(err, conf.Close(), os.WriteFile(filepath.Join(pg.dir, "cycle.sql"), []byte(postgresScript), 0o644)); err != nil {
		return err
	}
	_, err = pg.run(ctx, pg.dir, "pg_ctl", "start", "--wait", "--pgdata="+data, "--log="+filepath.Join(pg.dir, "server.log"))
	return err
}

// stop ends the server and removes its data.
func (pg *postgres) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // even if the run was given up
	defer cancel()
	_, err := pg.run(ctx, pg.dir, "pg_ctl", "stop", "--wait", "--mode=immediate", "--pgdata="+filepath.Join(pg.dir, "data"))
	return errors.Join(err, os.RemoveAll(pg.dir))
}

func (pg *postgres) query(ctx context.Context, sql string) (string, error) {
	out, err := pg.run(ctx, pg.dir, "psql", "--host="+pg.dir, "--username=bench", "--dbname=postgres",
		"--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--command="+sql)
	return strings.TrimSpace(out), err
}

// pgbenchTPS finds the rate in pgbench's report; a transaction there is one run of the script.
var pgbenchTPS = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without initial connection time\)`)

// sample runs n clients on a new table, first to warm up, then counting.
func (pg *postgres) sample(ctx context.Context, n int, d time.Duration) (queueSample, error) {
	var s queueSample
	if _, err := pg.query(ctx, "DROP TABLE IF EXISTS jobs; "+strings.ReplaceAll(postgresTable, "\n", " ")+" CHECKPOINT"); err != nil {
		return s, err
	}
	if _, err := pg.bench(ctx, n, queueWarmUp); err != nil {
		return s, err
	}
	before, err := pg.reading(ctx)
	if err != nil {
		return s, err
	}
	tps, err := pg.bench(ctx, n, d)
	if err != nil {
		return s, err
	}
	after, err := pg.reading(ctx)
	if err != nil {
		return s, err
	}
	// Scripts that leased nothing are no cycles.
	cycles, scripts := after.ended-before.ended, after.submitted-before.submitted
	if cycles <= 0 || scripts <= 0 {
		return s, fmt.Errorf("%d of %d jobs have ended", cycles, scripts)
	}
	s.cycles = tps * float64(cycles) / float64(scripts)
	s.meanMS = 1000 * float64(n) / s.cycles
	s.cpuMS = 1000 * (after.cpuS - before.cpuS) / float64(cycles)
	return s, nil
}

// bench runs pgbench and returns how many scripts it ended per second. Its clock runs
// while it connects, which its rate leaves out; on a busy computer that takes longer.
func (pg *postgres) bench(ctx context.Context, n int, d time.Duration) (float64, error) {
	var out string
	for _, connect := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		seconds := max(1, int((d + time.Duration(n)*connect).Round(time.Second).Seconds()))
		var err error
		out, err = pg.run(ctx, pg.dir, "pgbench", "--host="+pg.dir, "--username=bench", "--no-vacuum", "--protocol=prepared",
			"--file=cycle.sql", "--client="+strconv.Itoa(n), "--jobs="+strconv.Itoa(min(n, 2)), "--time="+strconv.Itoa(seconds), "postgres")
		if err != nil {
			return 0, err
		}
		if m := pgbenchTPS.FindStringSubmatch(out); m != nil {
			return strconv.ParseFloat(m[1], 64)
		}
	}
	return 0, fmt.Errorf("pgbench's report has no rate: %s", tailOf(out))
}

type postgresReading struct {
	submitted, ended int64
	cpuS             float64 // of the server and its sessions
}

func (pg *postgres) reading(ctx context.Context) (postgresReading, error) {
	var r postgresReading
	out, err := pg.query(ctx, "SELECT count(*), count(*) FILTER (WHERE state = 2) FROM jobs")
	if err != nil {
		return r, err
	}
	if _, err := fmt.Sscanf(out, "%d|%d", &r.submitted, &r.ended); err != nil {
		return r, fmt.Errorf("count %q: %w", out, err)
	}
	b, err := os.ReadFile(filepath.Join(pg.dir, "data", "postmaster.pid"))
	if err != nil {
		return r, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return r, fmt.Errorf("postmaster.pid: %w", err)
	}
	u, err := usageOf([]int{pid})
	r.cpuS = u.cpuS
	return r, err
}
