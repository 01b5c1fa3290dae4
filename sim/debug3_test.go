package sim
import ("testing";"time";"fmt";"os")
func TestDebug3(t *testing.T) {
	cfg := Config{Seed:7, Machines:60, Chunks:500, CacheRate: 250_000_000}
	switch os.Getenv("K") { case "corrupt": cfg.Corrupt=6; case "stall": cfg.Stall=6; case "wan": cfg.CellLatency=50*time.Millisecond;cfg.Chunks=1000; case "claim": cfg.Claim=6}
	cfg.setDefaults()
	w := newWorld(cfg); w.start()
	next := 1000*time.Millisecond
	for w.left > 0 {
		if !w.clock.next(cfg.Limit) { break }
		if w.clock.now >= next {
			next += 1000*time.Millisecond
			fmt.Printf("%v cache %d q%d a%d left %d\n", w.clock.now.Round(time.Millisecond), w.caches[0].sent>>20, len(w.caches[0].queue), len(w.caches[0].active), w.left)
			k:=0
			for _, m := range w.machines { if m.honest() && m.done==0 { fmt.Println("   ", m.name, m.peer.Debug()); k++; if k==3 {break} } }
		}
	}
}
