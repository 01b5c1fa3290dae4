package enrol

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// onceWithin bounds one attempt at one server. A server's own bounds are shorter.
const onceWithin = 20 * time.Second

// Dial connects to a server whose cluster's CA has one of the fingerprints, on a stream for
// machines without a certificate; *transport.EnrolDialer has the method. Closing the stream ends its
// connection.
type Dial func(ctx context.Context, addr string, cas []starling.Digest) (Stream, error)

// Stream is a stream to a server that has proved who it is.
type Stream interface {
	net.Conn
	Peer() starling.Identity
}

// Once makes one attempt at the server at addr. refused reports whether an error is the region's own
// verdict on the request, which no other server would give otherwise.
func Once(ctx context.Context, dial Dial, addr string, cas []starling.Digest, region string, req *rpc.EnrolRequest) (_ rpc.EnrolResponse, refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, onceWithin)
	defer cancel()
	s, err := dial(ctx, addr, cas)
	if err != nil {
		return rpc.EnrolResponse{}, false, err
	}
	defer s.Close() // all that matters has been read
	if id := s.Peer(); id.Region != region {
		return rpc.EnrolResponse{}, false, fmt.Errorf("%w: the server at %s is of region %s, this machine is to be of region %s: see servers, join_token and region",
			starling.ErrForbidden, addr, id.Region, region)
	}
	c := rpc.Client{HTTP: &http.Client{Transport: exchange{s}}}
	out, err := c.Enrol(ctx, *req)
	return out, err != nil && verdict(err), err
}

// exchange sends one request on a stream of its own, without the two goroutines of an
// http.Transport: tens of thousands of machines may be in one process that tests.
type exchange struct{ net.Conn }

// RoundTrip implements http.RoundTripper.
func (x exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(req.Context(), func() { _ = x.Close() }) // ends what waits below
	if err := req.Write(x); err != nil {
		stop()
		return nil, fmt.Errorf("send: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(x), req)
	if err != nil {
		stop()
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	res.Body = body{res.Body, stop}
	return res, nil
}

// body is an answer that the request's context may cut short until it is closed.
type body struct {
	io.ReadCloser
	stop func() bool
}

func (b body) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}
