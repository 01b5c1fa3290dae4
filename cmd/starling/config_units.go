package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/starlingdeploy/starling"
)

// parseBytes reads "500GiB", "10GB" or "1048576" as bytes.
func parseBytes(field, s string) (int64, error) {
	n, err := parseUnits(s, []unit{
		{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
		{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1}, {"", 1},
	})
	if err != nil {
		return 0, starling.Invalidf(field, "%q: want a size like 500GiB", s)
	}
	return n, nil
}

// parseRate reads "1Gbit" as bytes per second; the empty string is no limit, 0.
func parseRate(field, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := parseUnits(s, []unit{{"kbit", 1e3 / 8}, {"mbit", 1e6 / 8}, {"gbit", 1e9 / 8}})
	if err != nil {
		return 0, starling.Invalidf(field, "%q: want a rate like 100Mbit or 1Gbit (per second)", s)
	}
	return n, nil
}

type unit struct {
	suffix string
	factor float64
}

func parseUnits(s string, units []unit) (int64, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		num, ok := strings.CutSuffix(low, u.suffix)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil {
			continue
		}
		if v := f * u.factor; v >= 1 && v < math.MaxInt64/2 {
			return int64(v), nil
		}
	}
	return 0, fmt.Errorf("not a quantity: %q", s)
}
