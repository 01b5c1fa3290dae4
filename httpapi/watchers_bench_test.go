package httpapi

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// How long an event takes from its commit to each of 500 watchers of one server, over real
// connections: go test ./httpapi -run - -bench Watchers -benchtime 50x
func BenchmarkWatchers(b *testing.B) {
	const watchers = 500
	back := newBackend("r1")
	srv := serve(b, Config{Backend: back})
	var mu sync.Mutex
	var took []time.Duration
	began := make([]atomic.Int64, b.N)
	var ready, done sync.WaitGroup
	for range watchers {
		ready.Add(1)
		done.Go(func() {
			res, err := srv.Client().Get(srv.URL + "/v1/events?progress=true")
			if err != nil {
				ready.Done()
				b.Error(err)
				return
			}
			defer res.Body.Close()
			lines := bufio.NewScanner(res.Body)
			placed, seen := false, 0
			var mine []time.Duration
			for seen < b.N && lines.Scan() {
				switch l := lines.Text(); {
				case strings.HasPrefix(l, "id: ") && !placed:
					placed = true
					ready.Done()
				case strings.HasPrefix(l, "data: "):
					mine = append(mine, time.Since(time.Unix(0, began[seen].Load())))
					seen++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	ready.Wait()
	b.ResetTimer()
	for i := range b.N {
		began[i].Store(time.Now().UnixNano())
		applyApp(b, back, fmt.Sprintf("a%d", i))
		time.Sleep(100 * time.Millisecond) // ten changes a second
	}
	done.Wait()
	slices.Sort(took)
	if len(took) != watchers*b.N {
		b.Fatalf("%d of %d arrived", len(took), watchers*b.N)
	}
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
	srv.Client().Transport.(*http.Transport).CloseIdleConnections()
}
