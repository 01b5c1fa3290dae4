package bench

// CapResult says how well the caps on upload and download held: the busiest spell of
// capSpellS seconds at the interfaces, where acknowledgements and gossip are counted too,
// in units of the cap.
type CapResult struct {
	Mbit    int     `json:"mbit"`
	SeedUp  float64 `json:"seed_up"` // of the busiest cache, which always has something to send
	Up      float64 `json:"up"`      // of the busiest machine
	Down    float64 `json:"down"`    // likewise
	WindowS float64 `json:"window_s"`
}

// capSpellS is over how long a cap is to hold.
const capSpellS = 3

// capResult looks at our rounds, with so many seeds; nil without a cap.
func capResult(mbit, seeds int, rounds []*Round) *CapResult {
	if mbit == 0 {
		return nil
	}
	res := &CapResult{Mbit: mbit, WindowS: capSpellS}
	for _, r := range rounds {
		if r.System != ours || len(r.Samples) == 0 {
			continue
		}
		for i := range r.Samples[0].OutBytes {
			up := busiest(r.Samples, func(s *Sample) int64 { return s.OutBytes[i] }) / float64(mbit)
			down := busiest(r.Samples, func(s *Sample) int64 { return s.InBytes[i] }) / float64(mbit)
			if i < seeds {
				res.SeedUp = max(res.SeedUp, up)
			} else {
				res.Up, res.Down = max(res.Up, up), max(res.Down, down)
			}
		}
	}
	return res
}

// busiest returns the highest rate, in Mbit/s, at which a counter grew over a spell.
func busiest(samples []Sample, counter func(*Sample) int64) float64 {
	most, from := 0.0, 0
	for i := range samples {
		for from < i && samples[i].AtS-samples[from+1].AtS >= capSpellS {
			from++
		}
		if spell := samples[i].AtS - samples[from].AtS; spell >= capSpellS {
			most = max(most, float64(counter(&samples[i])-counter(&samples[from]))*8/1e6/spell)
		}
	}
	return most
}
