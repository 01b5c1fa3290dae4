package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/webhook"
)

// Bounds of one try.
const (
	postWithin        = 10 * time.Second
	dialWithin        = 5 * time.Second
	maxAnswerBytes    = 4 << 10
	maxHeaderBytes    = 16 << 10
	maxIdlePerHost    = 2
	idleFor           = 30 * time.Second
	maxRetryAfter     = 10 * time.Minute // that a receiver may ask for
	maxAnswerInErrors = 120              // bytes of an answer
)

// Refusal is an answer other than 2xx.
type Refusal struct {
	Status int
	Text   string        // the beginning of the answer
	After  time.Duration // that the receiver wants to be left alone for; 0: it does not say
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("answered %d %s %s", r.Status, http.StatusText(r.Status), r.Text)
}

// Final reports whether the same again is not likely to do better: the receiver says that the
// message is wrong, not that the time is.
func (r *Refusal) Final() bool {
	switch r.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusTooEarly:
		return false // a token may be mended, a receiver rest
	}
	return r.Status >= 300 && r.Status < 500
}

// Poster posts messages. It never follows a redirect, and goes neither to its own host nor
// to link-local addresses, where clouds keep what they tell to nobody else, however a name
// resolves. Safe for concurrent use.
type Poster struct {
	client *http.Client
	local  bool
}

// NewPoster returns a Poster. local lets it speak plain HTTP, and to its own host.
func NewPoster(local bool) *Poster {
	p := &Poster{local: local}
	dialer := &net.Dialer{Timeout: dialWithin, ControlContext: p.checkAddr}
	p.client = &http.Client{
		Timeout: postWithin,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialWithin,
			MaxIdleConnsPerHost: maxIdlePerHost, IdleConnTimeout: idleFor, MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// Close ends idle connections.
func (p *Poster) Close() { p.client.CloseIdleConnections() }

// CheckURL refuses what Post would not go to.
func (p *Poster) CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return starling.Invalidf("url", "is not a URL")
	case u.Scheme != "https" && !p.local:
		return starling.WithHint("url", "use https; for a test, servers can be told server { notify_local = true }", "is not https")
	}
	return nil
}

// checkAddr refuses addresses that messages must not reach, once they are known.
func (p *Poster) checkAddr(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if a := ap.Addr().Unmap(); !p.local && forbidden(a) {
		return fmt.Errorf("%w: notifications do not go to %s", starling.ErrForbidden, a)
	}
	return nil
}

func forbidden(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return true
	}
	for _, metadata := range []string{"fd00:ec2::254", "100.100.100.200"} { // of clouds that use no link-local address
		if a == netip.MustParseAddr(metadata) {
			return true
		}
	}
	return false
}

// Post tells the target a message, once. The error is a *Refusal if there was an answer.
func (p *Poster) Post(ctx context.Context, t *Target, m *Message, now time.Time) error {
	to, body, h, err := t.form(m)
	if err != nil {
		return fmt.Errorf("write %s: %w", m.ID, err)
	}
	if err := p.CheckURL(to); err != nil {
		return err
	}
	if t.Kind == starling.SinkWebhook {
		h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		h.Set(webhook.HeaderSignature, webhook.Sign(t.Secret, m.ID, now, body))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("post: %w", withoutURL(err))
	}
	req.Header = h
	res, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("post to %s: %w", req.URL.Host, withoutURL(err))
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes))
	if res.StatusCode < 300 {
		return nil // it was taken; how the answer goes on is of no interest
	}
	if err != nil {
		answer = nil
	}
	return &Refusal{Status: res.StatusCode, Text: strconv.QuoteToASCII(clip(string(answer), maxAnswerInErrors)), After: retryAfter(res.Header)}
}

// withoutURL takes the URL out of an error of net/http: Slack's is a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// retryAfter reads Retry-After in seconds (RFC 9110, section 10.2.3).
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
