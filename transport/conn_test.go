package transport

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/starlingdeploy/starling"
)

func TestConnIsANetConn(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	b := w.listen(t, "r", "b", starling.RoleMachine)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		near, err := a.Dial(t.Context(), b.Addr(), KindBlob)
		if err != nil {
			return nil, nil, nil, err
		}
		far, err := b.Accept(t.Context(), KindBlob)
		if err != nil {
			return nil, nil, nil, errors.Join(err, near.Close())
		}
		return near, far, func() { closeAll(t, near, far) }, nil
	})
}

func TestTransferIntegrity(t *testing.T) {
	const size = 8 << 20
	for name, cfg := range map[string]Config{
		"gro":          {},
		"without gro":  {DisableGRO: true},
		"coalesced":    {ReceiveCoalesce: 2 * time.Millisecond},
		"small window": {MaxStreamWindowBytes: 16 << 10},
		"both options": {DisableGRO: true, ReceiveCoalesce: 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "c")
			cfg.Credentials = w.credentials(t, "r", "b", starling.RoleCache)
			a, b := w.listen(t, "r", "a", starling.RoleWorker), listenWith(t, cfg)
			near, far := pair(t, a, b, KindBlob)
			want := sha256.New()
			sent := make(chan error, 1)
			go func() {
				src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), want)
				_, err := io.Copy(near, src)
				sent <- errors.Join(err, near.CloseWrite())
			}()
			got := sha256.New()
			n, err := io.Copy(got, far)
			if err != nil || n != size {
				t.Fatalf("read %d bytes, %v", n, err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("the bytes differ")
			}
			s := b.Stats()
			if s.BytesIn != size || s.PacketsIn == 0 || s.SocketReads == 0 {
				t.Errorf("stats: %+v", s)
			}
			if s.GRO && s.PacketsIn < 2*s.SocketReads {
				t.Errorf("GRO is on, yet %d reads brought only %d packets", s.SocketReads, s.PacketsIn)
			}
		})
	}
}

func TestManyStreams(t *testing.T) {
	const streams, size = 100, 20_000
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleServer)
	b := w.listen(t, "r", "b", starling.RoleServer, starling.RoleCache)
	ctx := testContext(t)
	var work sync.WaitGroup
	for _, k := range []Kind{KindRaft, KindControl, KindBlob} {
		work.Go(func() { // echo
			for range streams {
				c, err := b.Accept(ctx, k)
				if err != nil {
					t.Error(err)
					return
				}
				work.Go(func() {
					defer c.Close()
					if _, err := io.Copy(c, c); err != nil {
						t.Error(err)
					}
				})
			}
		})
		for i := range streams {
			work.Go(func() {
				c, err := a.Dial(ctx, b.Addr(), k)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				want := bytes.Repeat([]byte(fmt.Sprint(k, i)), size/8)
				work.Go(func() {
					_, err := c.Write(want)
					if err = errors.Join(err, c.CloseWrite()); err != nil {
						t.Error(err)
					}
				})
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s stream %d: %d of %d bytes, %v", k, i, len(got), len(want), err)
				}
			})
		}
	}
	work.Wait()
	if n := b.Stats().Connections; n != 3 { // one per lane, however many dialled at once
		t.Errorf("%d connections", n)
	}
	eventually(t, "all streams are gone", func() bool { return a.Stats().Streams == 0 && b.Stats().Streams == 0 })
}

func TestWriteDeadline(t *testing.T) {
	w := newWorld(t, "c")
	near, far := pair(t, w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleMachine), KindBlob)
	if err := near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := near.Write(make([]byte, 4*initialStreamWindowBytes)) // nobody reads
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes, %v", n, err)
	}
	if err := near.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, far); err != nil || got != int64(n) {
		t.Errorf("%d bytes arrived of the %d written, %v", got, n, err)
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	w := newWorld(t, "c")
	a, b := w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleMachine)
	for range 20 {
		near, far := pair(t, a, b, KindSwarm)
		if _, err := near.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		closeAll(t, near, near) // a second time is no error
		got, err := io.ReadAll(far)
		if err != nil || string(got) != "last words" {
			t.Fatalf("%q, %v", got, err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	}
}

func TestReadFromAndWriteTo(t *testing.T) {
	w := newWorld(t, "c")
	near, far := pair(t, w.listen(t, "r", "a", starling.RoleMachine), w.listen(t, "r", "b", starling.RoleMachine), KindBlob)
	want := bytes.Repeat([]byte("starling"), 300_000)
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(near, bytes.NewReader(want))
		sent <- errors.Join(err, near.CloseWrite())
	}()
	var got bytes.Buffer
	if n, err := io.Copy(&got, far); err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
