package sim
import ("testing";"time";"fmt";"os";"strconv")
func TestDebug(t *testing.T) {
	env := func(k string, d int) int { if v,err:=strconv.Atoi(os.Getenv(k)); err==nil {return v}; return d }
	cfg := Config{Seed:uint64(env("SEED",0)), Machines:env("M",8), Chunks:env("C",500), VarySizes: env("VARY",0)==1, UploadSlots: env("SLOTS",0), CacheRate:int64(125_000_000*env("X",1))}
	cfg.setDefaults()
	w := newWorld(cfg); w.start()
	next := 200*time.Millisecond
	for w.left > 0 {
		if !w.clock.next(cfg.Limit) { break }
		if w.clock.now >= next {
			next += 200*time.Millisecond
			fmt.Printf("%v cache %d q%d a%d |", w.clock.now.Round(time.Millisecond), w.caches[0].sent>>20, len(w.caches[0].queue), len(w.caches[0].active))
			for i, m := range w.machines { if i >= 8 {break}; h,_ := m.peer.Progress(w.artifact); fo:=0; for r := range m.fetches { if r.Origin {fo++} }; fmt.Printf(" %d:%d/%d(%d+%d)f%d+%d", h,(m.fromPeers+m.fromCaches)>>20, m.sent>>20, len(m.active), len(m.queue), len(m.fetches)-fo,fo) }
			fmt.Println()
		}
	}
}
