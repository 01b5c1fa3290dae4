package sim
import ("testing";"time";"fmt";"os";"strconv")
func TestQuick(t *testing.T) {
	env := func(k string, d int) int { if v,err:=strconv.Atoi(os.Getenv(k)); err==nil {return v}; return d }
	for _, cr := range []int64{1, 10} {
		for seed := range uint64(3) {
	c := Config{Seed: seed, Machines: env("M",8), Chunks: env("C",500), CacheRate: 125_000_000*cr, UploadSlots: env("SLOTS",0), VarySizes: env("VARY",0)==1}
	st := time.Now()
	r, err := Run(c)
	if err != nil { t.Fatal(err) }
	var fp, fc int64
	for _, m := range r.PerMachine { fp+=m.FromPeers; fc+=m.FromCaches }
	fmt.Printf("M=%d C=%d cache x%d: bound %v last %v (%.3f) median %.3f copies %.3f wasted %.4f unfinished %d steps %d wall %v\n", c.Machines, c.Chunks, cr, r.Bound, r.Last, float64(r.Last)/float64(r.Bound), float64(r.Median)/float64(r.Bound), r.OriginCopies, float64(r.Wasted)/float64(r.Bytes*int64(r.Machines)), r.Unfinished, r.Steps, time.Since(st))
	}}
}
