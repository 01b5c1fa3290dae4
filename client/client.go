// Package client is the Go client of Starling's HTTP API.
//
// A [Client] calls one server, any of any region, which passes each request on to where it
// belongs. Given several of a region it goes on to the next when one cannot be reached. [FromEnv] takes its address and token from where the command line takes them.
//
// Errors wrap the sentinels of package starling, for errors.Is: ErrNotFound, ErrConflict,
// ErrForbidden, ErrUnavailable. What a server says beyond that is an [Error]: which part of
// the input is wrong, as a JSON pointer, and a hint what to do. ErrUnavailable is worth
// another try; a submission is safe to repeat with an idempotency key.
//
// [Client.Wait] follows one deployment to its end and [Client.Events] all that happens, both
// over changes of leader and broken connections.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
)

// MaxBodyBytes bounds an answer that the client reads into memory.
const MaxBodyBytes = 80 << 20

// DefaultAddr is where a server on this computer listens.
const DefaultAddr = "http://127.0.0.1:7470"

// MaxAddrs bounds the servers that a client knows.
const MaxAddrs = 16

// Config says how to reach a server.
type Config struct {
	Addr   string // base URL, or host:port; several of one region separated by commas, MaxAddrs at most; default DefaultAddr
	Token  string // bearer token; may be empty
	CACert string // PEM file of the authority behind the server's certificate; default: the system's
	HTTP   *http.Client
}

// FromEnv returns the Config that STARLING_ADDR, STARLING_TOKEN and STARLING_CACERT give.
func FromEnv() Config {
	return Config{Addr: os.Getenv("STARLING_ADDR"), Token: os.Getenv("STARLING_TOKEN"), CACert: os.Getenv("STARLING_CACERT")}
}

// Client calls one server, which passes each request on to where it belongs. Safe for concurrent use.
type Client struct {
	servers *servers
	token   string
	http    *http.Client

	consistent, stale bool
}

// Stale returns a client whose reads of one thing take what the server that is called
// knows of it, which may be old: the place that knows better need not be reachable.
func (c *Client) Stale() *Client {
	out := *c
	out.stale, out.consistent = true, false
	return &out
}

// Consistent returns a client whose reads of apps, releases, goals and deployments show
// every change that was acknowledged before they began. Each waits for a log entry, which
// the reads of a moment share, and needs a quorum.
func (c *Client) Consistent() *Client {
	out := *c
	out.consistent, out.stale = true, false
	return &out
}

// read fetches what has a consistent form.
func read[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	if c.consistent {
		q.Set("consistent", "")
	}
	if c.stale {
		q.Set("stale", "")
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return fetch[T](ctx, c, http.MethodGet, path, nil, nil)
}

// New returns a client; it does not connect yet.
func New(cfg Config) (*Client, error) {
	servers, err := parseServers(cfg.Addr)
	if err != nil {
		return nil, err
	}
	hc := cfg.HTTP
	if hc == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		if len(servers.urls) > 1 {
			transport.DialContext = (&net.Dialer{Timeout: dialWithin, KeepAlive: dialKeepAlive}).DialContext
		}
		if cfg.CACert != "" {
			pem, err := os.ReadFile(cfg.CACert)
			if err != nil {
				return nil, fmt.Errorf("authority: %w (STARLING_CACERT)", err)
			}
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("authority: %s holds no certificate (STARLING_CACERT)", cfg.CACert)
			}
			transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		}
		hc = &http.Client{Transport: transport}
	}
	return &Client{servers: servers, token: cfg.Token, http: hc}, nil
}

// ApplyApp creates or changes an app. With ifRevision, only if the app is at that
// revision (0: does not exist yet).
func (c *Client) ApplyApp(ctx context.Context, app starling.App, ifRevision *uint64) (*starling.App, error) {
	h := http.Header{}
	if ifRevision != nil {
		h.Set("If-Match", strconv.FormatUint(*ifRevision, 10))
	}
	return fetch[*starling.App](ctx, c, http.MethodPut, "/v1/apps/"+url.PathEscape(app.Name), h, app)
}

// App returns one app.
func (c *Client) App(ctx context.Context, name string) (*starling.App, error) {
	return read[*starling.App](ctx, c, "/v1/apps/"+url.PathEscape(name), url.Values{})
}

// Apps returns all apps by name.
func (c *Client) Apps(ctx context.Context) ([]*starling.App, error) {
	return read[[]*starling.App](ctx, c, "/v1/apps", url.Values{})
}

// Releases returns an app's releases, newest first.
func (c *Client) Releases(ctx context.Context, app string) ([]*starling.Release, error) {
	return read[[]*starling.Release](ctx, c, "/v1/apps/"+url.PathEscape(app)+"/releases", url.Values{})
}

// Goal returns what an app's machines are to run; ErrNotFound before the first goal.
func (c *Client) Goal(ctx context.Context, app string) (*starling.Goal, error) {
	return read[*starling.Goal](ctx, c, "/v1/apps/"+url.PathEscape(app)+"/goal", url.Values{})
}

// Submit asks for a deployment. With a key, a retry finds the first submission's deployment.
func (c *Client) Submit(ctx context.Context, s starling.Submission) (*starling.Deployment, error) {
	return fetch[*starling.Deployment](ctx, c, http.MethodPost, "/v1/deployments", idempotent(s.IdempotencyKey), s)
}

// Rollback asks for the release with the given generation sequence; 0: the one before the current.
func (c *Client) Rollback(ctx context.Context, app string, to uint64, key string) (*starling.Deployment, error) {
	return fetch[*starling.Deployment](ctx, c, http.MethodPost, "/v1/apps/"+url.PathEscape(app)+"/rollback", idempotent(key), map[string]uint64{"to": to})
}

func idempotent(key string) http.Header {
	if key == "" {
		return nil
	}
	return http.Header{"Idempotency-Key": {key}}
}

// Deployment returns one deployment with live counts.
func (c *Client) Deployment(ctx context.Context, id string) (*starling.Deployment, error) {
	return read[*starling.Deployment](ctx, c, "/v1/deployments/"+url.PathEscape(id), url.Values{})
}

// Why explains a deployment. machine, if not empty, is asked how the artifact came to it;
// region is needed only where several regions have a machine of that name.
func (c *Client) Why(ctx context.Context, id, machine, region string) (*starling.Why, error) {
	q := url.Values{}
	if machine != "" {
		q.Set("machine", machine)
	}
	if region != "" {
		q.Set("region", region)
	}
	return fetch[*starling.Why](ctx, c, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/why?"+q.Encode(), nil, nil)
}

// DeploymentCells tells how the cells of machines stand with a deployment under way, in all
// regions that take part or in one.
func (c *Client) DeploymentCells(ctx context.Context, id, region string) ([]starling.CellProgress, error) {
	q := url.Values{}
	if region != "" {
		q.Set("region", region)
	}
	return fetch[[]starling.CellProgress](ctx, c, http.MethodGet, "/v1/deployments/"+url.PathEscape(id)+"/cells?"+q.Encode(), nil, nil)
}

// Deployments lists deployments, newest first.
func (c *Client) Deployments(ctx context.Context, f starling.DeploymentFilter) ([]*starling.Deployment, error) {
	q := url.Values{}
	if f.App != "" {
		q.Set("app", f.App)
	}
	if f.Active {
		q.Set("active", "true")
	}
	if f.Before != "" {
		q.Set("before", f.Before)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return read[[]*starling.Deployment](ctx, c, "/v1/deployments", q)
}

// Act cancels, approves, pauses, resumes, promotes or aborts a deployment. When it returns
// the record says, in its Fence or Hold, what can no longer come of it.
func (c *Client) Act(ctx context.Context, id string, a starling.Action) (*starling.Deployment, error) {
	return fetch[*starling.Deployment](ctx, c, http.MethodPost, "/v1/deployments/"+url.PathEscape(id)+"/"+string(a), nil, nil)
}

// ActWith is Act with options. A promotion that names the Wave it ends is safe to repeat.
func (c *Client) ActWith(ctx context.Context, id string, a starling.Action, o starling.ActionOptions) (*starling.Deployment, error) {
	return fetch[*starling.Deployment](ctx, c, http.MethodPost, "/v1/deployments/"+url.PathEscape(id)+"/"+string(a), nil, o)
}

// Regions returns the regions as the server sees them.
func (c *Client) Regions(ctx context.Context) ([]starling.RegionStatus, error) {
	return fetch[[]starling.RegionStatus](ctx, c, http.MethodGet, "/v1/regions", nil, nil)
}

// Region returns what the server knows of a region.
func (c *Client) Region(ctx context.Context, name string) (*starling.RegionDetail, error) {
	return fetch[*starling.RegionDetail](ctx, c, http.MethodGet, "/v1/regions/"+url.PathEscape(name), nil, nil)
}

// TakeOver makes the server's region the home of a lost region's apps. Without force it is
// refused while any region hears that one or has seen more of it.
func (c *Client) TakeOver(ctx context.Context, region string, force bool) (*starling.Takeover, error) {
	return fetch[*starling.Takeover](ctx, c, http.MethodPost, "/v1/regions/"+url.PathEscape(region)+"/takeover", nil, map[string]bool{"force": force})
}

// Leader says who leads the server's region.
func (c *Client) Leader(ctx context.Context) (starling.LeaderStatus, error) {
	return fetch[starling.LeaderStatus](ctx, c, http.MethodGet, "/v1/status/leader", nil, nil)
}

// BootstrapToken makes the first operator token, once.
func (c *Client) BootstrapToken(ctx context.Context) (*starling.IssuedToken, error) {
	return fetch[*starling.IssuedToken](ctx, c, http.MethodPost, "/v1/acl/bootstrap", nil, nil)
}

// CreateToken makes a token; its secret is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, t starling.NewToken) (*starling.IssuedToken, error) {
	return fetch[*starling.IssuedToken](ctx, c, http.MethodPost, "/v1/acl/tokens", nil, t)
}

// Tokens lists tokens without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]*starling.Token, error) {
	return fetch[[]*starling.Token](ctx, c, http.MethodGet, "/v1/acl/tokens", nil, nil)
}

// RevokeToken ends a token at once.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/acl/tokens/"+url.PathEscape(id), nil, nil, nil)
}

// RaftPeers returns the Raft configuration of the server's region.
func (c *Client) RaftPeers(ctx context.Context) ([]starling.RaftPeer, error) {
	return fetch[[]starling.RaftPeer](ctx, c, http.MethodGet, "/v1/operator/raft", nil, nil)
}

// RemovePeer takes a server out of the Raft configuration.
func (c *Client) RemovePeer(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/operator/raft/"+url.PathEscape(name), nil, nil, nil)
}

// TransferLeadership makes another server lead.
func (c *Client) TransferLeadership(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/operator/raft/transfer-leadership", nil, nil, nil)
}

// JoinServers makes the server join the gossip of others; it returns how many answered.
func (c *Client) JoinServers(ctx context.Context, addrs []string) (int, error) {
	out, err := fetch[struct {
		Joined int `json:"joined"`
	}](ctx, c, http.MethodPost, "/v1/operator/join", nil, map[string][]string{"addrs": addrs})
	return out.Joined, err
}

// ForceLeave marks a failed member as gone for good.
func (c *Client) ForceLeave(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodPost, "/v1/operator/force-leave", nil, map[string]string{"name": name}, nil)
}

// LeaveServer takes the very server that is called out of its region for good; it stops.
func (c *Client) LeaveServer(ctx context.Context) error {
	if len(c.servers.urls) > 1 {
		return starling.Invalidf("addr", "names %d servers: name the one that is to leave", len(c.servers.urls))
	}
	return c.do(ctx, http.MethodPost, "/v1/operator/leave", nil, nil, nil)
}

// ServerHealth returns how the servers of the region are, as their leader sees them.
func (c *Client) ServerHealth(ctx context.Context) (starling.RaftHealth, error) {
	return fetch[starling.RaftHealth](ctx, c, http.MethodGet, "/v1/operator/autopilot/health", nil, nil)
}

// SaveSnapshot copies the region's state to w. Whether it is whole shows its last line,
// a checksum: see raftfsm.Inspect.
func (c *Client) SaveSnapshot(ctx context.Context, w io.Writer) error {
	res, err := c.request(ctx, http.MethodGet, "/v1/operator/snapshot", nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("save a snapshot: %w", err)
	}
	return nil
}

// RestoreSnapshot puts a saved state in place of the region's, and returns what that is.
func (c *Client) RestoreSnapshot(ctx context.Context, r io.Reader) (starling.SnapshotInfo, error) {
	var info starling.SnapshotInfo
	res, err := c.request(ctx, http.MethodPut, "/v1/operator/snapshot", http.Header{"Content-Type": {"application/x-ndjson"}}, r)
	if err != nil {
		return info, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, MaxBodyBytes)).Decode(&info); err != nil {
		return info, fmt.Errorf("restore a snapshot: %w", err)
	}
	return info, nil
}

// do sends in as JSON (or as it is, if it is a []byte) and decodes the answer into out.
func (c *Client) do(ctx context.Context, method, path string, h http.Header, in, out any) error {
	var body io.Reader
	if h == nil {
		h = http.Header{}
	}
	switch v := in.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(v)
		h.Set("Content-Type", "application/octet-stream")
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
		h.Set("Content-Type", "application/json")
	}
	res, err := c.request(ctx, method, path, h, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, MaxBodyBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, errors.Join(starling.ErrUnavailable, err))
	case len(b) > MaxBodyBytes:
		return fmt.Errorf("%s %s: the answer is longer than %d bytes", method, path, MaxBodyBytes)
	}
	switch v := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = b
		return nil
	default:
		if err := json.Unmarshal(b, out); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
}

func fetch[T any](ctx context.Context, c *Client, method, path string, h http.Header, in any) (T, error) {
	var out T
	err := c.do(ctx, method, path, h, in, &out)
	return out, err
}

// Wait polls a deployment until it has ended and calls progress, if not nil, with each
// answer. It outlives a change of leader: while no server answers, it tries again
// until ctx ends.
func (c *Client) Wait(ctx context.Context, id string, every time.Duration, progress func(*starling.Deployment)) (*starling.Deployment, error) {
	for {
		d, err := c.Deployment(ctx, id)
		switch {
		case err == nil:
			if progress != nil {
				progress(d)
			}
			if d.Phase.Terminal() {
				return d, nil
			}
		case !errors.Is(err, starling.ErrUnavailable):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(every):
		}
	}
}
