package transport

import (
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// BenchmarkBulk moves bytes from one endpoint to another over loopback in writes of 1 MiB. cpu-s/GB is that of
// both sides together, since both live in this process.
func BenchmarkBulk(b *testing.B) {
	for _, gro := range []bool{true, false} {
		for _, streams := range []int{1, 2, 8} {
			b.Run(fmt.Sprintf("gro=%t/streams=%d", gro, streams), func(b *testing.B) {
				benchmarkBulk(b, gro, streams)
			})
		}
	}
}

func benchmarkBulk(b *testing.B, gro bool, streams int) {
	const writeBytes = 1 << 20
	w := newWorld(b, "c")
	var ends [2]*Endpoint
	for i := range ends {
		ends[i] = listenWith(b, Config{
			Credentials:     w.credentials(b, "r", fmt.Sprintf("n%d", i), starling.RoleMachine),
			DisableGRO:      !gro,
			BlobConnections: min(streams, 2),
		})
	}
	var near, far []*Conn
	for range streams {
		n, f := pair(b, ends[0], ends[1], KindBlob)
		near, far = append(near, n), append(far, f)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var work sync.WaitGroup
	block := make([]byte, writeBytes)
	tickets := make(chan struct{})
	cpu, start := cpuTime(b), time.Now()
	b.SetBytes(writeBytes)
	b.ResetTimer()
	for i := range streams {
		work.Go(func() {
			for range tickets {
				if _, err := near[i].Write(block); err != nil {
					b.Errorf("Write: %v", err)
					cancel()
				}
			}
			if err := near[i].CloseWrite(); err != nil {
				b.Errorf("CloseWrite: %v", err)
			}
		})
		work.Go(func() {
			if _, err := io.Copy(io.Discard, far[i]); err != nil {
				b.Errorf("Read: %v", err)
				cancel()
			}
		})
	}
	for range b.N {
		select {
		case tickets <- struct{}{}:
		case <-ctx.Done():
		}
	}
	close(tickets)
	work.Wait()
	b.StopTimer()
	gb := float64(b.N) * writeBytes / 1e9
	b.ReportMetric((cpuTime(b)-cpu).Seconds()/gb, "cpu-s/GB")
	b.ReportMetric(gb*1e3/time.Since(start).Seconds(), "MB/s-wall")
	var lost uint64
	ends[0].mu.Lock()
	for l := range ends[0].links {
		lost += l.quic.ConnectionStats().PacketsLost
	}
	ends[0].mu.Unlock()
	b.ReportMetric(float64(lost)/gb, "lost-packets/GB")
}

// cpuTime is what the process has used, in user and system mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
