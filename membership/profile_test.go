package membership

import (
	"math"
	"testing"

	"github.com/hashicorp/serf/serf"
)

// Each member tells a thing to RetransmitMult × ⌈log10(n+1)⌉ others, chosen by chance: so many tellings come
// to each in the mean, and with the chance of e to the minus that, none. Of 100,000 machines
// in cells of any size that a large fleet has, hardly one may miss a goal in a hundred changes.
func TestNewsMissNobodyInALargeFleet(t *testing.T) {
	const fleet, most = 100_000, 0.01
	conf := serf.DefaultConfig()
	ProfileCell.apply(conf)
	for _, cell := range []int{300, 999, 1000, 1500} {
		tellings := float64(conf.MemberlistConfig.RetransmitMult) * math.Ceil(math.Log10(float64(cell+1)))
		if missed := fleet * math.Exp(-tellings); missed > most {
			t.Errorf("cells of %d: %.3g of %d machines do not hear of a goal, in the mean", cell, missed, fleet)
		}
	}
}
