package sim
import ("testing";"time";"fmt")
func TestFaultsDebug(t *testing.T) {
	base := Config{Seed:7, Machines:60, Chunks:500, CacheRate: 250_000_000}
	for _, c := range []struct{n string; f func(*Config)}{
		{"none", func(c *Config){}},
		{"8machines", func(c *Config){c.Machines=8}},
		{"slow", func(c *Config){c.Slow=6}},
		{"corrupt", func(c *Config){c.Corrupt=6}},
		{"claim", func(c *Config){c.Claim=6}},
		{"stall", func(c *Config){c.Stall=6}},
		{"stall3of8", func(c *Config){c.Machines=8; c.Stall=3}},
		{"all", func(c *Config){c.Stall=4;c.Claim=4;c.Corrupt=4;c.Slow=4}},
		{"dead", func(c *Config){ for i := range 6 {c.Outages=append(c.Outages, Outage{Machine:i*7, At: time.Duration(i)*500*time.Millisecond})} }},
		{"churn", func(c *Config){ for i := range 20 {c.Outages=append(c.Outages, Outage{Machine:i*3, At: time.Duration(i)*200*time.Millisecond, For: 2*time.Second})} }},
		{"cachedown", func(c *Config){ c.CacheDown=[]Outage{{0, time.Second, 2*time.Second}} }},
		{"cachedown2", func(c *Config){ c.Caches=3;c.CacheDown=[]Outage{{0, time.Second, 0}} }},
		{"spread", func(c *Config){ c.StartSpread=3*time.Second }},
		{"held", func(c *Config){ c.Held=0.9 }},
		{"heldall", func(c *Config){ c.Held=1 }},
		{"nocache", func(c *Config){ c.Caches=3; c.CacheDown=[]Outage{{0,0,10*time.Second},{1,0,10*time.Second},{2,0,10*time.Second}} }},
		{"1500", func(c *Config){ c.Machines=1500; c.Chunks=200 }},
		{"1500few", func(c *Config){ c.Machines=1500; c.Chunks=10 }},
		{"1chunk", func(c *Config){ c.Chunks=1 }},
		{"10mbit", func(c *Config){ c.UpRate=1_250_000;c.DownRate=1_250_000;c.CacheRate=12_500_000; c.Chunks=100 }},
		{"10gbit", func(c *Config){ c.UpRate=1_250_000_000;c.DownRate=1_250_000_000;c.CacheRate=1_250_000_000; c.Chunks=2000 }},
		{"wan", func(c *Config){ c.CellLatency=50*time.Millisecond;c.Chunks=1000; }},
	} {
		cfg := base
		c.f(&cfg)
		st := time.Now()
		r, err := Run(cfg)
		if err != nil { t.Fatal(err) }
		fmt.Printf("M= %-10s bound %v last %v (%.3f) median %.3f copies %.3f wasted %.4f unfinished %d steps %d wall %v\n", c.n, r.Bound, r.Last, float64(r.Last)/float64(r.Bound), float64(r.Median)/float64(r.Bound), r.OriginCopies, float64(r.Wasted)/float64(max(1,r.Bytes*int64(r.Machines))), r.Unfinished, r.Steps, time.Since(st))
	}
}
