package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// Client calls the servers of one region. HTTP's transport chooses a server and
// dials it; Client adds no retries: its callers loop and know best when to give up.
type Client struct {
	HTTP *http.Client
}

// Status asks a server for its state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	return out, c.call(ctx, RouteStatus, "", nil, nil, &out)
}

// Lease waits up to req.WaitMS for a job; the result is nil if there is none.
func (c *Client) Lease(ctx context.Context, req LeaseRequest) (*Job, error) {
	var out LeaseResponse
	err := c.call(ctx, RouteLease, "", nil, req, &out)
	return out.Job, err
}

// Heartbeat renews a lease. ErrFenced or ErrNotFound: stop the build at once.
func (c *Client) Heartbeat(ctx context.Context, id string, req HeartbeatRequest) error {
	return c.call(ctx, RouteHeartbeat, id, nil, req, nil)
}

// JobLog appends to the log of a job and returns the offset to go on from.
func (c *Client) JobLog(ctx context.Context, id string, req LogRequest) (int64, error) {
	var out LogResponse
	err := c.call(ctx, RouteJobLog, id, nil, req, &out)
	return out.Next, err
}

// Complete ends a job well. Calling it again with the same lease and artifact is no error.
func (c *Client) Complete(ctx context.Context, id string, req CompleteRequest) error {
	return c.call(ctx, RouteComplete, id, nil, req, nil)
}

// Fail ends a job badly.
func (c *Client) Fail(ctx context.Context, id string, req FailRequest) error {
	return c.call(ctx, RouteFail, id, nil, req, nil)
}

// Goals returns the region's goals as soon as they are newer than index or the leader is not
// the one that reign names, or after wait.
func (c *Client) Goals(ctx context.Context, index uint64, reign string, wait time.Duration) (Goals, error) {
	var out Goals
	q := blocking(index, wait)
	q.Set("reign", reign)
	return out, c.call(ctx, RouteGoals, "", q, nil, &out)
}

// ReportMachine delivers a machine's reports, MaxReports at most.
func (c *Client) ReportMachine(ctx context.Context, reports []starling.MachineReport) error {
	return c.call(ctx, RouteMachineReports, "", nil, reports, nil)
}

// Wants returns what the caches are to hold as soon as it is newer than index, or after wait.
func (c *Client) Wants(ctx context.Context, index uint64, wait time.Duration) (Wants, error) {
	var out Wants
	return out, c.call(ctx, RouteWants, "", blocking(index, wait), nil, &out)
}

// ReportCache delivers a cache's report.
func (c *Client) ReportCache(ctx context.Context, r CacheReport) error {
	return c.call(ctx, RouteCacheReport, "", nil, r, nil)
}

// Mirror returns the records homed at the called region that changed after index, or
// after wait. echo may be nil.
func (c *Client) Mirror(ctx context.Context, index uint64, wait time.Duration, echo *Echo) (MirrorBatch, error) {
	var out MirrorBatch
	query := blocking(index, wait)
	if echo != nil {
		b, err := json.Marshal(echo)
		if err != nil {
			return out, fmt.Errorf("%s: %w", RouteMirror, err)
		}
		query.Set("echo", string(b))
	}
	return out, c.call(ctx, RouteMirror, "", query, nil, &out)
}

// Vote asks the called region for its vote; nil: it was given.
func (c *Client) Vote(ctx context.Context, r VoteRequest) error {
	return c.call(ctx, RouteVote, "", nil, r, nil)
}

// ReportRegion delivers a region's reports to the home of the apps.
func (c *Client) ReportRegion(ctx context.Context, reports []starling.RegionReport) error {
	return c.call(ctx, RouteRegionReports, "", nil, reports, nil)
}

// Account returns how an artifact came to a machine of the called region. ErrNotFound:
// there is no such machine, or it does not know.
func (c *Client) Account(ctx context.Context, machine string, artifact starling.Digest) (*starling.Account, error) {
	var out starling.Account
	err := c.call(ctx, RouteAccount, "", url.Values{"machine": {machine}, "artifact": {artifact.String()}}, nil, &out)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

func blocking(index uint64, wait time.Duration) url.Values {
	return url.Values{"index": {strconv.FormatUint(index, 10)}, "wait": {min(wait, MaxWait).String()}}
}

// call sends in as JSON, if not nil, and decodes the answer into out, if not nil.
func (c *Client) call(ctx context.Context, route, id string, query url.Values, in, out any) error {
	method, path, _ := strings.Cut(route, " ")
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: %w", route, err)
		}
		body = bytes.NewReader(b)
	}
	u := url.URL{
		Scheme: "http", Host: "starling", RawQuery: query.Encode(),
		Path:    strings.Replace(path, "{id}", id, 1),
		RawPath: strings.Replace(path, "{id}", url.PathEscape(id), 1),
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("%s: %w", route, err)
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", route, errors.Join(starling.ErrUnavailable, err))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, MaxBodyBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", route, errors.Join(starling.ErrUnavailable, err))
	case len(b) > MaxBodyBytes:
		return fmt.Errorf("%s: the answer is longer than %d bytes", route, MaxBodyBytes)
	case res.StatusCode >= 300:
		return fmt.Errorf("%s: %w", route, decodeProblem(res.StatusCode, b))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s: %w", route, err)
	}
	return nil
}
