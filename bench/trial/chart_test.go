package trial

import (
	"slices"
	"testing"
)

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		axis axis
		want []string
	}{
		{axis{high: 51}, []string{"0", "10", "20", "30", "40", "50"}},
		{axis{high: 18.2}, []string{"0", "5", "10", "15"}},
		{axis{high: 0.7}, []string{"0", "0.2", "0.4", "0.6"}},
		{axis{low: 95, high: 104}, []string{"96", "98", "100", "102", "104"}},
		{axis{low: -3, high: 3}, []string{"-3", "-2", "-1", "0", "1", "2", "3"}},
		{axis{low: 0.4, high: 30, log: true}, []string{"0.5", "1", "2", "5", "10", "20"}},
		{axis{low: 0.01, high: 20000, log: true}, []string{"0.01", "0.1", "1", "10", "100", "1000", "10000"}},
	} {
		var got []string
		for _, x := range c.axis.ticks(6) {
			got = append(got, x.Label)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.axis, got, c.want)
		}
	}
}
