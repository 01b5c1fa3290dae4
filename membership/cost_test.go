package membership

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-metrics"
)

var costMembers = flag.Int("members", 0, "measure what a quiet cell of so many members in one process costs; 0: skip")

// What docs/operators.md says of the cost of gossip: go test ./membership -run TestCost -v -members 200
func TestCostOfAQuietCell(t *testing.T) {
	n := *costMembers
	if n == 0 {
		t.Skip("-members says of how many")
	}
	const (
		span  = 30 * time.Second
		quiet = lookAgain*(1+4+16)*3/2 + 5*time.Second
	)
	sink := metrics.NewInmemSink(time.Hour, 2*time.Hour)
	conf := metrics.DefaultConfig("cost")
	conf.EnableHostname, conf.EnableRuntimeMetrics = false, false
	if _, err := metrics.NewGlobal(conf, sink); err != nil {
		t.Fatal(err)
	}
	var pools []*Pool
	before := heap()
	began := time.Now()
	for i := range n {
		c := cellConfig(fmt.Sprintf("m%d", i))
		c.Profile = ProfileCell
		c.Node.Tags = map[string]string{"role": "web"}
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError}))
		if i > 0 {
			c.Join = []string{pools[0].Addr()}
		}
		pools = append(pools, start(t, c))
	}
	for deadline := began.Add(3 * time.Minute); slices.ContainsFunc(pools, func(p *Pool) bool { return alive(p) != n }); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all see all")
		}
	}
	joined := time.Since(began)
	time.Sleep(quiet) // until what the joins have to say has been said, and lists have been compared
	cpu, sent := cpuTime(t), sentBytes(sink)
	time.Sleep(span)
	cpu, sent = cpuTime(t)-cpu, sentBytes(sink)-sent
	t.Logf("%d members joined within %s; each: %.2f ms CPU/s, %.0f bytes/s sent, %.0f kB of memory", n, joined.Round(time.Second),
		float64(cpu.Milliseconds())/span.Seconds()/float64(n), sent/span.Seconds()/float64(n), float64(heap()-before)/float64(n)/1e3)
	began = time.Now()
	pools[n/2].Announce(1)
	for _, p := range pools {
		await(t, "news", func() (bool, <-chan struct{}) { heard, next := p.Heard(); return heard == 1, next })
	}
	t.Logf("the last has heard of news after %s", time.Since(began).Round(time.Millisecond))
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func sentBytes(sink *metrics.InmemSink) (sum float64) {
	for _, interval := range sink.Data() {
		for name, c := range interval.Counters {
			if strings.HasPrefix(name, "cost.memberlist.udp.sent") || strings.HasPrefix(name, "cost.memberlist.tcp.sent") {
				sum += c.Sum
			}
		}
	}
	return sum
}
