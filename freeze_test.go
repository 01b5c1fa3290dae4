package starling

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestFrozen(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here: ", err)
	}
	zone := func(name string) (*time.Location, error) {
		if name != "Europe/Berlin" {
			return nil, errors.New("unknown")
		}
		return berlin, nil
	}
	weekend := Freeze{Name: "weekend", Days: []string{"sat", "sun"}, From: "00:00", To: "24:00", Zone: "Europe/Berlin"}
	night := Freeze{Name: "night", From: "22:30", To: "06:00"}
	friday := Freeze{Name: "friday", Days: []string{"fri"}, From: "18:00", To: "24:00", Zone: "Europe/Berlin"}
	long := Freeze{Name: "year-end", From: "2026-12-20T00:00:00Z", Until: "2027-01-04T08:00:00+01:00"}
	for name, c := range map[string]struct {
		all   []Freeze
		now   string
		by    string // empty: not frozen
		until string
	}{
		"a Friday":                        {[]Freeze{weekend}, "2026-11-27T12:00:00Z", "", ""},
		"Saturday begins in Berlin":       {[]Freeze{weekend}, "2026-11-27T23:00:00Z", "weekend", "2026-11-29T23:00:00Z"},
		"just before":                     {[]Freeze{weekend}, "2026-11-27T22:59:59Z", "", ""},
		"Monday":                          {[]Freeze{weekend}, "2026-11-29T23:00:00Z", "", ""},
		"one after the other without gap": {[]Freeze{weekend, friday}, "2026-11-27T18:00:00Z", "friday", "2026-11-29T23:00:00Z"},
		"a day of 25 hours":               {[]Freeze{weekend}, "2026-10-25T12:00:00Z", "weekend", "2026-10-25T23:00:00Z"},
		"the evening":                     {[]Freeze{night}, "2026-11-27T23:00:00Z", "night", "2026-11-28T06:00:00Z"},
		"the morning after":               {[]Freeze{night}, "2026-11-28T05:59:00Z", "night", "2026-11-28T06:00:00Z"},
		"the day":                         {[]Freeze{night}, "2026-11-28T06:00:00Z", "", ""},
		"a span":                          {[]Freeze{long}, "2026-12-20T00:00:00Z", "year-end", "2027-01-04T07:00:00Z"},
		"after it":                        {[]Freeze{long}, "2027-01-04T07:00:00Z", "", ""},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		f, until, err := Frozen(c.all, now, zone)
		got := ""
		if f != nil {
			got = f.Name
		}
		if err != nil || got != c.by || c.by != "" && until.UTC().Format(time.RFC3339) != c.until {
			t.Errorf("%s: frozen by %q until %s, %v; want %q until %s", name, got, until.UTC().Format(time.RFC3339), err, c.by, c.until)
		}
	}
	if f, _, err := Frozen([]Freeze{{Name: "x", From: "00:00", To: "24:00", Zone: "Mars/Base"}}, time.Unix(0, 0), zone); f == nil || err == nil {
		t.Errorf("a zone that is not known: %v, %v", f, err)
	}
	// What never ends is told as frozen, in bounded time.
	if f, until, err := Frozen([]Freeze{{Name: "always", From: "00:00", To: "24:00"}}, time.Unix(0, 0), zone); f == nil || until.Before(time.Unix(0, 0).AddDate(1, 0, 0)) || err != nil {
		t.Errorf("always: %v until %s, %v", f, until, err)
	}
}

func TestFreezesThatAreRefused(t *testing.T) {
	for want, f := range map[string]Freeze{
		"freeze[0].name":  {Name: "Week End", From: "00:00", To: "24:00"},
		"freeze[0].days":  {Name: "x", Days: []string{"someday"}, From: "00:00", To: "24:00"},
		"freeze[0].from":  {Name: "x", From: "24:00", To: "24:00"},
		"freeze[0].to":    {Name: "x", From: "9:00", To: ""},
		"freeze[0].zone":  {Name: "x", From: "09:00", To: "10:00", Zone: "../etc/passwd"},
		"freeze[0].until": {Name: "x", From: "2026-12-20T00:00:00Z", Until: "2026-12-19T00:00:00Z"},
	} {
		if err := checkFreezes("freeze", []Freeze{f}); err == nil || !IsInvalid(err) || !strings.Contains(err.Error(), want) && want != "freeze[0].to" {
			t.Errorf("%+v: %v, want one of %s", f, err, want)
		}
	}
	twice := Freeze{Name: "x", From: "09:00", To: "10:00"}
	if err := checkFreezes("freeze", []Freeze{twice, twice}); err == nil || !strings.Contains(err.Error(), "freeze[1].name") {
		t.Errorf("named twice: %v", err)
	}
}

func TestSteps(t *testing.T) {
	taking := []Placing{{Name: "ap"}, {Name: "eu"}, {Name: "us"}}
	s := Strategy{Waves: []string{"10%", "100%"}, Regions: [][]string{{"eu"}, {"moon"}, {"us"}}}
	var text []string
	last := map[string]Cutoff{}
	steps := s.Steps(taking)
	for i, step := range steps {
		all, ahead, err := s.Reach(step.Index, i == len(steps)-1)
		if err != nil {
			t.Fatal(err)
		}
		g := Goal{Cutoff: all, Ahead: ahead}
		for _, r := range []string{"ap", "eu", "us", "moon", "new"} { // no region ever falls back
			c := g.In(r).Cutoff
			if c < last[r] {
				t.Errorf("%s falls from %d to %d at step %d", r, last[r], c, step.Index)
			}
			last[r] = c
		}
		text = append(text, strings.Join(step.Regions, ",")+":"+step.Share)
	}
	if got := strings.Join(text, " "); got != "eu:10% eu:100% us:10% us:100% ap:10% ap:100%" {
		t.Errorf("steps %s", got)
	}
	for r, c := range last {
		if c != CutoffAll {
			t.Errorf("%s ends at %d", r, c)
		}
	}
	if _, _, err := s.Reach(99, false); err == nil {
		t.Error("there is a step 99")
	}
}

func TestAllowance(t *testing.T) {
	for text, most := range map[string]int{"0": 0, "3": 3, "0%": 0, "10%": 10, "100%": 100, " 2 ": 2} {
		a, err := ParseAllowance(text)
		if err != nil || a.Exceeded(most, 100) || !a.Exceeded(most+1, 100) {
			t.Errorf("%q allows not %d of 100: %+v, %v", text, most, a, err)
		}
	}
	for _, text := range []string{"", "-1", "x", "101%", "1.5"} {
		if _, err := ParseAllowance(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// A machine is asked to be healthy for as long as the longer of the two says.
func TestMinHealthyTimeRaisesTheCheck(t *testing.T) {
	app := App{Name: "x", Deploy: DeploySpec{Health: &Health{TCP: "127.0.0.1:1"}}}
	app.Deploy.Strategy.MinHealthyTime = Duration(20 * time.Second)
	app.SetDefaults()
	if err := app.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := app.Deploy.ForMachines().Health.HealthyAfter; got != Duration(20*time.Second) {
		t.Errorf("healthy after %s", got)
	}
	if got := app.Deploy.Health.HealthyAfter; got != Duration(3*time.Second) {
		t.Errorf("the app's own check was changed to %s", got)
	}
	app.Deploy.Strategy.MinHealthyTime = Duration(time.Minute)
	if err := app.Validate(); err == nil || !strings.Contains(err.Error(), "deploy.strategy.min_healthy_time") {
		t.Errorf("longer than the check's deadline: %v", err)
	}
}
