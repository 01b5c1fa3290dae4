package day

import (
	"math"
	"time"

	"github.com/starlingdeploy/starling"
)

// The model's figures. Measured: docs/performance.md. Simulated: starling-bench sim.
// Assumed: what a company with a fleet of this size might see; nobody's log.
const (
	// Builds. Assumed: log-normal, cut off at the default time-out of a build.
	buildMedian = 4 * time.Minute
	buildSigma  = 0.6 // a mean of 4.8 min, 1 in 20 above 10.7 min
	buildsFail  = 50  // of 1,000: the command fails, somewhere in the middle
	workersDie  = 3   // of 1,000 builds: the worker is lost in it
	workerAway  = 3 * time.Minute
	askPause    = 100 * time.Millisecond // from one job to the next question

	// Artifacts. Assumed: log-normal, 10 GB at most; a release changes a part of its bytes.
	artifactMedian = 300 << 20
	artifactSigma  = 1.2
	mostArtifact   = 10 << 30
	newShare       = 0.25
	chunkBytes     = 1 << 20 // measured: cutting by content gives 1.15 MiB

	// Links, bytes a second. Assumed: a company's own WAN, and machines on 10 Gbit/s that
	// give deployments 1 Gbit/s (limits.download).
	wanPerRegion   = 10e9 / 8
	egressOfCaches = 40e9 / 8 // of one region's together
	machineLink    = 1e9 / 8
	swarmFactor    = 1.10                   // simulated: the last of 1,500 machines over the bound
	copiesPerCell  = 1.06                   // simulated: out of the caches
	cellMachines   = 1_500                  // as Starling's cells
	fetchBegins    = 2 * time.Second        // simulated: links, first chunks
	newsTravels    = 500 * time.Millisecond // measured: a goal from the home to another region's machines

	// Activation: restart, healthy_after of 3 s, report. Assumed: between.
	activateLeast = 6 * time.Second
	activateMost  = 15 * time.Second
	releasesBad   = 10 // of 1,000: machines do not become healthy with it
	machinesFail  = 2  // of 10,000 machines, for reasons of their own

	machineGroups = 50 // that apps share: each app runs on the machines of one group
	hotfixes      = 15 // of 1,000 submissions: of the highest priority
)

// Arrivals. Assumed: three fifths by the hours of an office, the rest in bursts of 200 (times
// the load) within an hour each, in different hours; half of all for a fifth of the apps.
const (
	inBursts  = 0.4
	burstSize = 200
	popular   = 5 // one app in so many gets half of the submissions
)

// officeHours is how many times the mean the submissions of each hour of the day are.
var officeHours = [24]float64{
	.2, .2, .2, .2, .2, .3, .5, .9, 1.5, 2.0, 2.2, 2.0, 1.5, 1.8, 2.2, 2.2, 2.0, 1.6, 1.0, .7, .5, .4, .3, .2,
}

// The hours with bursts are among these.
const (
	burstsFrom, burstsTo = 7, 21
)

// appOf is the app of one of many, all alike.
func appOf(name string) starling.App {
	a := starling.App{
		Name: name, Source: starling.SourceSpec{Git: "https://git.example/" + name + ".git"},
		Build: &starling.BuildSpec{Command: []string{"make"}},
	}
	s := &a.Deploy.Strategy
	s.Waves, s.Bake = []string{"1%", "10%", "100%"}, starling.Duration(30*time.Second)
	s.MaxFailed, s.AutoRevert = "0.5%", true
	a.Deploy.Run = []string{"./" + name}
	a.SetDefaults()
	return a
}

// logNormal draws from the distribution with that median and sigma, most at most.
func (w *world) logNormal(median, sigma, most float64) float64 {
	return min(median*math.Exp(sigma*w.rng.NormFloat64()), most)
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)))
}

// bursts draws the hours of n submissions' bursts.
func (w *world) bursts(n int) []int {
	hours := w.rng.Perm(burstsTo - burstsFrom)
	return hours[:min(len(hours), int(float64(n)*inBursts/(burstSize*w.conf.Load)))]
}

// when draws a time of submission. The hours are those of the span, as if that were a day.
func (w *world) when(bursts []int) time.Duration {
	if len(bursts) > 0 && w.rng.Float64() < inBursts {
		return w.inHour(burstsFrom+bursts[w.rng.IntN(len(bursts))], w.rng.Float64())
	}
	for {
		at := w.rng.Float64() * 24
		if w.rng.Float64()*2.2 < officeHours[int(at)] {
			return w.inHour(int(at), at-float64(int(at)))
		}
	}
}

func (w *world) inHour(hour int, part float64) time.Duration {
	return time.Duration((float64(hour) + part) / 24 * float64(w.conf.Span))
}

// anApp draws the app of a submission.
func (w *world) anApp() int {
	if few := w.conf.Apps / popular; few > 0 && w.rng.IntN(2) == 0 {
		return w.rng.IntN(few)
	}
	return w.rng.IntN(w.conf.Apps)
}
