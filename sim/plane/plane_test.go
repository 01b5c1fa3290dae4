package plane

import (
	"flag"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	oneSeed   = flag.Uint64("seed", 0, "play this schedule alone and tell its story; with -v also if it goes well")
	firstSeed = flag.Uint64("first", 1, "the first seed of TestPlane; 0: of the clock")
	schedules = flag.Int("schedules", 0, "how many schedules TestPlane plays; 0: a few")
	moves     = flag.Int("moves", -1, "how apps get another home: 0 not at all, 1 by operators' orders, 2 by votes of regions; -1: by the seed")
	soakFor   = flag.Duration("soak", 0, "play schedules for so long, whatever -schedules says")
)

// TestPlane plays schedules, one after the other on each core, and shows the story of the
// first that breaks a promise.
func TestPlane(t *testing.T) {
	if *oneSeed != 0 {
		r := Run(config(*oneSeed))
		t.Logf("%s\n%+v", Explain(config(*oneSeed)), r.Stats)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	first, most := *firstSeed, few
	if *schedules > 0 {
		most = *schedules
	}
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	begin := time.Now()
	sum, played, failed := play(first, func(n int) bool {
		if *soakFor > 0 {
			return time.Since(begin) < *soakFor
		}
		return n < most
	})
	took := time.Since(begin)
	t.Logf("%d schedules from seed %d in %s, %.0f a minute: %+v", played, first, took.Round(time.Millisecond), float64(played)/took.Minutes(), sum)
	if failed != nil {
		t.Fatalf("%s\nAgain: go test ./sim/plane -run TestPlane -seed %d -moves %d", Explain(config(failed.Seed)), failed.Seed, *moves)
	}
	// Schedules in which nothing happens would prove nothing.
	if sum.Succeeded < played/8 || sum.Cancels == 0 || sum.Requeues == 0 || sum.Restores == 0 || sum.Terms < 2*played || sum.Activations == 0 || sum.Takeovers == 0 || sum.Speakers < played || sum.Halves == 0 {
		t.Errorf("the schedules reach too little")
	}
}

// config is the schedule of a seed.
func config(seed uint64) Config {
	m := Moves(*moves)
	if m < 0 {
		m = []Moves{NoMoves, Votes, NoMoves, Orders}[seed%4]
	}
	return Config{Seed: seed, Moves: m}
}

// play plays seeds from first on, on all cores, while more says so, and returns the
// failure with the lowest seed, if there is one.
func play(first uint64, more func(n int) bool) (sum Stats, played int, failed *Result) {
	var (
		next atomic.Int64
		mu   sync.Mutex
		wg   sync.WaitGroup
	)
	for range cores {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if !more(n) {
					return
				}
				r := Run(config(first + uint64(n)))
				mu.Lock()
				sum, played = sum.Add(r.Stats), played+1
				if r.Err != nil && (failed == nil || r.Seed < failed.Seed) {
					failed = &r
				}
				stop := failed != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	return sum, played, failed
}

const cores = 2

// TestSameSeedSameEvents shows that a failure can be played again, and that telling its
// story changes nothing.
func TestSameSeedSameEvents(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		told := config(seed)
		told.Tell = true
		a, b := Run(config(seed)), Run(told)
		if a.Hash != b.Hash || a.Stats != b.Stats {
			t.Errorf("seed %d gave two runs:\n%x %+v\n%x %+v", seed, a.Hash, a.Stats, b.Hash, b.Stats)
		}
		if seed > 1 && Run(config(seed-1)).Hash == a.Hash {
			t.Errorf("seeds %d and %d gave the same run", seed-1, seed)
		}
	}
}

// TestBreaksAreFound builds bugs into the servers around the product's code: each must be
// found in a few schedules. The search begins where it was found last.
func TestBreaksAreFound(t *testing.T) {
	first := map[Break]uint64{
		AckBeforeCommit: 1, StaleLease: 20, NoGrace: 1, KeylessRetry: 2, Disorder: 4, DoubleVote: 9,
		AnyGoal: 13, SlackDeadline: 3, LostWrites: 1, HastyVote: 121, NoRegionLease: 59, BlindSpeaker: 2,
	}
	for _, b := range Breaks() {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			most := 200
			if b == AnyGoal || b == HastyVote { // one schedule in a hundred, or fewer
				if most = *schedules; most == 0 {
					t.Skip("rare: give -schedules 1000")
				}
			}
			conf := Config{Seed: first[b], Break: b}
			if b == HastyVote || b == NoRegionLease {
				conf.Moves = Votes
			}
			for range most {
				if r := Run(conf); r.Err != nil {
					t.Logf("seed %d: %v", conf.Seed, r.Err)
					return
				}
				conf.Seed++
			}
			t.Errorf("not found in %d schedules", most)
		})
	}
}
