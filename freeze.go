package starling

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Freeze is a window in which no step of a roll-out begins. It recurs, every day or on some
// Days from a time of day To another in Zone, or it is one span, From an instant Until
// another.
type Freeze struct {
	Name string   `json:"name"`
	Days []string `json:"days,omitempty"` // mon to sun, on which it begins; empty: every day
	From string   `json:"from"`           // 22:30, or RFC 3339 with until
	To   string   `json:"to,omitempty"`   // 06:00, to 24:00; not after From: on the day after
	Zone string   `json:"zone,omitempty"` // of a recurring one, as in the IANA database; empty: UTC
	// Until is the end of a span, RFC 3339, itself not part of it.
	Until string `json:"until,omitempty"`
}

// Override says who lets something pass that would be held up, and when.
type Override struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// maxFreezeChain bounds the windows in a row that are told as one.
const maxFreezeChain = 400

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

var zoneRE = regexp.MustCompile(`^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$`)

func checkFreezes(field string, all []Freeze) error {
	if len(all) > MaxFreezes {
		return Invalidf(field, "%d windows, more than %d", len(all), MaxFreezes)
	}
	seen := map[string]bool{}
	for i := range all {
		f := &all[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := f.Validate(at); err != nil {
			return err
		}
		if seen[f.Name] {
			return Invalidf(at+".name", "%s is named twice", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// Validate checks the form. Whether Zone exists is for who has the database to say.
func (f *Freeze) Validate(field string) error {
	if err := CheckName(field+".name", f.Name); err != nil {
		return err
	}
	if f.Until != "" || strings.Contains(f.From, "T") {
		return f.validateSpan(field)
	}
	for _, d := range f.Days {
		if !slices.Contains(weekdays, d) {
			return Invalidf(field+".days", "%.20q: use mon, tue, wed, thu, fri, sat and sun", d)
		}
	}
	if _, err := clockTime(f.From); err != nil || f.From == "24:00" {
		return Invalidf(field+".from", "%.40q: want a time of day like 22:30, or an instant like 2026-12-20T00:00:00Z with until", f.From)
	}
	if _, err := clockTime(f.To); err != nil {
		return Invalidf(field+".to", "%.40q: want a time of day like 06:00, 24:00 at most", f.To)
	}
	if f.Zone != "" && !zoneRE.MatchString(f.Zone) {
		return Invalidf(field+".zone", "%.40q: want a name like Europe/Berlin or UTC", f.Zone)
	}
	return nil
}

func (f *Freeze) validateSpan(field string) error {
	from, err := time.Parse(time.RFC3339, f.From)
	if err != nil {
		return Invalidf(field+".from", "%.40q: want an instant like 2026-12-20T00:00:00Z, as until has one", f.From)
	}
	until, err := time.Parse(time.RFC3339, f.Until)
	if err != nil {
		return Invalidf(field+".until", "%.40q: want an instant like 2027-01-04T08:00:00Z", f.Until)
	}
	switch {
	case !until.After(from):
		return Invalidf(field+".until", "%s is not after %s", f.Until, f.From)
	case len(f.Days) > 0 || f.To != "" || f.Zone != "":
		return Invalidf(field+".until", "a span from one instant until another has no days, to or zone")
	}
	return nil
}

// clockTime reads "22:30" as the minutes since midnight, 24*60 at most.
func clockTime(s string) (minutes int, err error) {
	var h, m int
	if n, err := fmt.Sscanf(s, "%02d:%02d", &h, &m); err != nil || n != 2 || len(s) != len("22:30") || h < 0 || m < 0 || m > 59 || h*60+m > 24*60 {
		return 0, fmt.Errorf("%.40q is not a time of day", s)
	}
	return h*60 + m, nil
}

// Covers reports whether the window holds now, and until when. loc is that of Zone. Where
// the clock of a zone jumps, a time of day that does not exist is the one after the jump, as
// time.Date reads it.
func (f *Freeze) Covers(now time.Time, loc *time.Location) (until time.Time, ok bool) {
	if f.Until != "" {
		from, err1 := time.Parse(time.RFC3339, f.From)
		until, err2 := time.Parse(time.RFC3339, f.Until)
		return until, err1 == nil && err2 == nil && !now.Before(from) && now.Before(until)
	}
	from, err1 := clockTime(f.From)
	to, err2 := clockTime(f.To)
	if err1 != nil || err2 != nil { // validated
		return time.Time{}, false
	}
	if to <= from {
		to += 24 * 60
	}
	here := now.In(loc)
	for back := range 2 { // one that began the day before may still hold
		day := here.AddDate(0, 0, -back)
		if len(f.Days) > 0 && !slices.Contains(f.Days, weekdays[day.Weekday()]) {
			continue
		}
		at := func(minutes int) time.Time {
			return time.Date(day.Year(), day.Month(), day.Day(), 0, minutes, 0, 0, loc)
		}
		if begin, end := at(from), at(to); !now.Before(begin) && now.Before(end) {
			return end, true
		}
	}
	return time.Time{}, false
}

// Frozen returns the window of several that holds now, and until when, windows that follow
// it without a gap among them. zone finds the zone of a window; one that it does not find
// holds until it does.
func Frozen(all []Freeze, now time.Time, zone func(string) (*time.Location, error)) (f *Freeze, until time.Time, err error) {
	for range maxFreezeChain {
		at := now
		if f != nil {
			at = until
		}
		next, end, err := frozenAt(all, at, zone)
		if err != nil {
			return next, time.Time{}, err
		}
		if next == nil {
			return f, until, nil
		}
		if f == nil {
			f = next
		}
		until = end
	}
	return f, until, nil
}

func frozenAt(all []Freeze, now time.Time, zone func(string) (*time.Location, error)) (*Freeze, time.Time, error) {
	for i := range all {
		f, loc := &all[i], time.UTC
		if f.Zone != "" && f.Zone != "UTC" {
			var err error
			if loc, err = zone(f.Zone); err != nil {
				return f, time.Time{}, err
			}
		}
		if until, ok := f.Covers(now, loc); ok {
			return f, until, nil
		}
	}
	return nil, time.Time{}, nil
}
