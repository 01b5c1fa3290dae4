package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// settleTime is how long a release without a health check must run to count as healthy.
const settleTime = time.Second

// maxHealthBodyBytes is read of the answer of a failing HTTP check, for the reason.
const maxHealthBodyBytes = 200

// checker tells whether a release is well. It belongs to one release.
type checker struct {
	spec starling.Health
	dir  string
	env  environment
}

func (c *checker) await(ctx context.Context) error {
	return awaitHealthy(ctx, c.spec, c.once)
}

// awaitHealthy returns nil once probe has passed without a break for
// spec.HealthyAfter, and the last problem when spec.Deadline has passed without
// that. It returns the cause of ctx when that ends first.
func awaitHealthy(ctx context.Context, spec starling.Health, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, spec.Deadline.D(), errHealthDeadline)
	defer cancel()
	tick := time.NewTicker(max(spec.Interval.D(), time.Millisecond))
	defer tick.Stop()
	var since time.Time // of the first pass in a row
	last := errors.New("no check has passed for long enough")
	for {
		err := probe(ctx)
		switch now := time.Now(); {
		case ctx.Err() != nil:
		case err != nil:
			since, last = time.Time{}, err
		case since.IsZero():
			since = now
		}
		if !since.IsZero() && time.Since(since) >= spec.HealthyAfter.D() && ctx.Err() == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errHealthDeadline) {
				return fmt.Errorf("not healthy within %s: %w", spec.Deadline, last)
			}
			return context.Cause(ctx)
		}
	}
}

var errHealthDeadline = errors.New("deadline of the health check")

// checkOfRunning is the checker of a release without a health check that must run for longer than
// settleTime. It always passes: that the release has ended is told by who keeps it.
func checkOfRunning(least starling.Duration) *checker {
	return &checker{spec: starling.Health{Interval: starling.Duration(settleTime), Timeout: starling.Duration(settleTime), HealthyAfter: least, Deadline: 2 * least}}
}

// once runs a single check.
func (c *checker) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.spec.Timeout.D())
	defer cancel()
	switch {
	case c.spec.HTTP != "":
		return checkHTTP(ctx, c.env.expand(c.spec.HTTP))
	case c.spec.TCP != "":
		addr := c.env.expand(c.spec.TCP)
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("health check: %w", err)
		}
		return conn.Close()
	case len(c.spec.Exec) == 0:
		return nil
	default:
		return runToEnd(ctx, "health check", command{argv: c.spec.Exec, dir: c.dir, env: c.env.list()}, nil)
	}
}

// checkHTTP wants a 2xx answer. Each check opens a connection of its own: an old
// one may lead to a process that is ending.
func checkHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	client := http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 == 2 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxHealthBodyBytes)) // only for the reason below
	return fmt.Errorf("health check: %s answered %s: %q", url, res.Status, body)
}

// runToEnd runs c until it exits or ctx ends, when its group is killed. Its output
// also goes to out, if not nil.
func runToEnd(ctx context.Context, what string, c command, out io.Writer) error {
	var last tail
	c.out = &last
	if out != nil {
		c.out = io.MultiWriter(out, &last)
	}
	p, err := startProcess(c)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop(unix.SIGKILL, 0)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return withOutput(fmt.Errorf("%s: %q has not ended in time and was killed", what, c.argv), &last)
		}
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if p.err != nil {
		return withOutput(fmt.Errorf("%s: %q: %w", what, c.argv, p.err), &last)
	}
	return nil
}

// environment is what a release's processes see.
type environment map[string]string

func (e environment) list() []string {
	out := make([]string, 0, len(e))
	for k, v := range e {
		out = append(out, k+"="+v)
	}
	return out
}

// expand replaces $NAME and ${NAME} from e alone; unknown names become empty.
func (e environment) expand(s string) string {
	return os.Expand(s, func(name string) string { return e[name] })
}
