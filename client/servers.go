package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
)

// With several servers to choose from, one whose computer is silent is given up soon.
const (
	dialWithin    = 5 * time.Second
	dialKeepAlive = 15 * time.Second
)

// servers are those that a client may call, and which of them it does.
type servers struct {
	urls []*url.URL
	at   atomic.Int64 // index of the one in use, modulo their number
}

func parseServers(list string) (*servers, error) {
	s := &servers{}
	if list == "" {
		list = DefaultAddr
	}
	addrs := strings.Split(list, ",")
	if len(addrs) > MaxAddrs {
		return nil, fmt.Errorf("%d addresses, more than %d (STARLING_ADDR)", len(addrs), MaxAddrs)
	}
	for _, given := range addrs {
		addr := strings.TrimSpace(given)
		if !strings.Contains(addr, "://") {
			addr = "https://" + addr
		}
		base, err := url.Parse(addr)
		if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
			return nil, fmt.Errorf("address %q: want a form like https://starling.example:7470, several separated by commas (STARLING_ADDR)", given)
		}
		s.urls = append(s.urls, base)
	}
	return s, nil
}

// use returns the server in use, and what leave wants to know to turn from it to the next.
func (s *servers) use() (*url.URL, int64) {
	at := s.at.Load()
	return s.urls[at%int64(len(s.urls))], at
}

// leave turns to the next server, unless another call has done so.
func (s *servers) leave(at int64) { s.at.CompareAndSwap(at, at+1) }

// request sends one request; the caller closes the body of an answer without error. If
// the server in use cannot be reached it tries the next ones, each once, where that does no
// harm: nothing was sent, or it only reads, or it carries an idempotency key.
func (c *Client) request(ctx context.Context, method, path string, h http.Header, body io.Reader) (*http.Response, error) {
	ref, err := url.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	small, replayable := body.(*bytes.Reader)
	replayable = replayable || body == nil
	harmless := method == http.MethodGet || h.Get("Idempotency-Key") != ""
	for tried := 1; ; tried++ {
		if small != nil {
			fresh := *small // an attempt that failed may still be reading its own
			body = &fresh
		}
		base, at := c.servers.use()
		res, err := c.send(ctx, method, base.ResolveReference(ref).String(), h, body)
		if err == nil {
			if res.StatusCode < 300 {
				return res, nil
			}
			defer res.Body.Close()
			err := decodeError(res)
			if errors.Is(err, starling.ErrUnavailable) {
				c.servers.leave(at) // the next one may see more of its region
			}
			return nil, err
		}
		if ctx.Err() == nil {
			c.servers.leave(at)
		}
		if ctx.Err() != nil || tried >= len(c.servers.urls) || !replayable || !harmless && !undelivered(err) {
			return nil, fmt.Errorf("%s %s: %w", method, ref.Path, errors.Join(starling.ErrUnavailable, err))
		}
	}
}

func (c *Client) send(ctx context.Context, method, to string, h http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, err
	}
	for k, v := range h {
		req.Header[k] = v
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(req)
}

// undelivered reports whether a request failed before there was a connection.
func undelivered(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
