package trial

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/starlingdeploy/starling"
)

// placeMark annotates parameters that say where something is on this computer.
const placeMark = "place"

// Place marks parameters as saying where something is on this computer, not what is
// measured: results compare whatever these are.
func Place(params *pflag.FlagSet, names ...string) {
	for _, name := range names {
		if err := params.SetAnnotation(name, placeMark, []string{}); err != nil {
			panic("trial: " + err.Error()) // the scenario names a parameter that it does not have
		}
	}
}

func isPlace(f *pflag.Flag) bool { _, ok := f.Annotations[placeMark]; return ok }

// parameters returns what a scenario's parameters are set to, without places.
func parameters(params *pflag.FlagSet) map[string]string {
	out := map[string]string{}
	params.VisitAll(func(f *pflag.Flag) {
		if !isPlace(f) {
			out[f.Name] = f.Value.String()
		}
	})
	return out
}

// bytes is a number of bytes that may be written with a unit.
type bytes int64

// BytesVar adds a parameter that is a number of bytes, like 1048576, 10GB or 512MiB.
func BytesVar(params *pflag.FlagSet, p *int64, name string, value int64, usage string) {
	*p = value
	params.Var((*bytes)(p), name, usage)
}

// sizes are the units, those of them first that end like others.
var sizes = []struct {
	unit string
	n    int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

func (b *bytes) Set(s string) error {
	number, factor := strings.TrimSpace(s), int64(1)
	for _, u := range sizes {
		if before, ok := strings.CutSuffix(number, u.unit); ok {
			number, factor = strings.TrimSpace(before), u.n
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if v *= float64(factor); err != nil || !(math.Abs(v) < 1<<62) {
		return fmt.Errorf("%.40q: want a size like 500MB, 10GB or 1048576", s)
	}
	*b = bytes(math.Round(v))
	return nil
}

func (b *bytes) String() string { return sizeText(int64(*b)) }

func (b *bytes) Type() string { return "bytes" }

// sizeText writes a size with the largest decimal unit that needs no fraction.
func sizeText(n int64) string {
	for _, u := range []struct {
		unit string
		n    int64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}} {
		if n != 0 && n%u.n == 0 {
			return strconv.FormatInt(n/u.n, 10) + u.unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// Set sets a parameter from text, as a flag would.
func (s *Scenario) Set(name, value string) error {
	f := s.Params.Lookup(name)
	if f == nil {
		return starling.Invalidf(name, "scenario %s has no such parameter; it has %s", s.Name, joined(s.paramNames()))
	}
	if err := f.Value.Set(value); err != nil {
		return starling.Invalidf(name, "%s", strings.TrimPrefix(err.Error(), "strconv."))
	}
	f.Changed = true
	return nil
}

func (s *Scenario) paramNames() []string {
	var out []string
	s.Params.VisitAll(func(f *pflag.Flag) { out = append(out, f.Name) })
	return out
}

// joined writes names with commas and an "and".
func joined(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// Describe tells of a parameter what its values look like, and what it is.
func Describe(f *pflag.Flag) (form, what string) {
	form = f.Value.Type()
	if strings.Contains(f.Usage, "`") {
		unit, usage := pflag.UnquoteUsage(f)
		return form + ", " + unit, usage
	}
	return form, f.Usage
}
