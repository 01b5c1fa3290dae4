package blobcache

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A cap holds within 5 % over 3 s and more, with one stream and with many, from the
// first moment, and none of it is wasted.
func TestLimitHolds(t *testing.T) {
	for _, mbit := range []int64{5, 100, 1_000} {
		for _, streams := range []int{1, 7} {
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d Mbit, %d streams, reads %v", mbit, streams, reads), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { limitHolds(t, mbit*1e6/8, streams, reads) })
				})
			}
		}
	}
}

func limitHolds(t *testing.T, perSecond int64, streams int, reads bool) {
	const span = 4 * time.Second
	limit := NewLimit(perSecond)
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var mu sync.Mutex
	var total, early int64
	began := time.Now()
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		total += int64(n)
		if time.Since(began) <= 200*time.Millisecond {
			early += int64(n)
		}
	}
	var wg sync.WaitGroup
	for range streams {
		near, far := net.Pipe()
		stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
		defer stop()
		conn, err := limit.Reads(func(context.Context, string) (net.Conn, error) { return far, nil })(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if !reads {
			conn = far
		}
		chunk := make([]byte, 1<<20)
		wg.Go(func() {
			for err := error(nil); err == nil; { // until the test ends
				if reads {
					_, err = near.Write(chunk)
				} else {
					err = limit.write(ctx, near, chunk)
				}
			}
		})
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for {
				n, err := conn.Read(buf)
				count(n)
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	want := float64(perSecond) * span.Seconds()
	if used := float64(total) * wireOverhead / want; used > 1.05 || used < 0.95 {
		t.Errorf("%.3f of the cap was used", used)
	}
	piece := float64(streams) * float64(limit.pieceBytes.Load())
	if burst := float64(early)*wireOverhead - piece; burst > 1.05*float64(perSecond)*0.2 {
		t.Errorf("%.0f bytes in the first 200 ms, of %.0f", burst, float64(perSecond)*0.2)
	}
}

func TestLimitedStreamCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		conn, err := NewLimit(1000).Reads(func(context.Context, string) (net.Conn, error) { return far, nil })(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = near.Write(make([]byte, minPieceBytes)) }()
		ended := make(chan error)
		go func() { _, err := conn.Read(make([]byte, minPieceBytes)); ended <- err }()
		time.Sleep(time.Second)
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Error("the read had its bytes at once")
		}
	})
}
