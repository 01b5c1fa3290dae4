package trial

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/spf13/pflag"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/starlingdeploy/starling"
)

// maxPlanBytes bounds a scenario file.
const maxPlanBytes = 1 << 20

// ReadPlan reads a scenario file:
//
//	repeat     = 5     # of each scenario; a scenario may say otherwise
//	warmup     = 1     # repeats before those, thrown away
//	interleave = true  # take them in turns, each turn in an order of its own
//	seed       = 7     # of those orders
//
//	scenario "swarm" "eight machines" {
//	  machines = 8
//	  bytes    = "100MB"
//	}
//
// A scenario's fields are its parameters. The label may be left out; two scenarios of one
// name need different ones. Every mistake is named with its place.
func ReadPlan(file string, scenarios Registry) (*Plan, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, starling.Invalidf(file, "%s", err)
	}
	return ParsePlan(text, file, scenarios)
}

// ParsePlan reads a scenario file's text; file names it in mistakes.
func ParsePlan(text []byte, file string, scenarios Registry) (*Plan, error) {
	if len(text) > maxPlanBytes {
		return nil, starling.Invalidf(file, "is larger than %d bytes", maxPlanBytes)
	}
	parsed, diags := hclsyntax.ParseConfig(text, file, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, mistakes(diags)
	}
	body, ok := parsed.Body.(*hclsyntax.Body)
	if !ok {
		return nil, starling.Invalidf(file, "is not HCL's own syntax")
	}
	r := &reader{scenarios: scenarios, plan: &Plan{Text: string(text)}}
	base := &Planned{Repeat: 1}
	for _, a := range inOrder(body.Attributes) {
		r.general(a, base)
	}
	for _, b := range body.Blocks {
		r.block(b, *base)
	}
	if len(body.Blocks) == 0 {
		r.wrong(body.SrcRange, "no scenario", `Name at least one: scenario "swarm" "a label" { … }. starling-bench list shows which there are.`)
	}
	if r.diags.HasErrors() {
		return nil, mistakes(r.diags)
	}
	return r.plan, nil
}

// reader collects a plan, and the mistakes of its file.
type reader struct {
	scenarios Registry
	plan      *Plan
	diags     hcl.Diagnostics
}

func (r *reader) wrong(at hcl.Range, what, detail string) {
	r.diags = append(r.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: what, Detail: detail, Subject: &at})
}

// general reads a field outside of scenarios.
func (r *reader) general(a *hclsyntax.Attribute, base *Planned) {
	params := pflag.NewFlagSet("file", pflag.ContinueOnError)
	params.BoolVar(&r.plan.Interleave, "interleave", r.plan.Interleave, "")
	params.Uint64Var(&r.plan.Seed, "seed", r.plan.Seed, "")
	if r.counts(a, base) {
		return
	}
	f := params.Lookup(a.Name)
	if f == nil {
		r.wrong(a.NameRange, "unknown field "+a.Name, "Outside of scenarios there are repeat, warmup, interleave and seed.")
		return
	}
	r.set(f, a)
}

// counts reads how often a scenario is measured, if a says that.
func (r *reader) counts(a *hclsyntax.Attribute, p *Planned) bool {
	params := pflag.NewFlagSet("scenario", pflag.ContinueOnError)
	params.IntVar(&p.Repeat, "repeat", p.Repeat, "")
	params.IntVar(&p.Warmups, "warmup", p.Warmups, "")
	f := params.Lookup(a.Name)
	if f == nil {
		return false
	}
	if r.set(f, a); p.Repeat < 1 || p.Repeat > MaxRepeats || p.Warmups < 0 || p.Warmups > MaxRepeats {
		r.wrong(a.Expr.Range(), a.Name+" is out of bounds", fmt.Sprintf("repeat is 1 to %d, warmup 0 to %d.", MaxRepeats, MaxRepeats))
	}
	return true
}

// block reads a scenario; base has what the file says of all.
func (r *reader) block(b *hclsyntax.Block, base Planned) {
	if b.Type != "scenario" {
		r.wrong(b.TypeRange, "unknown block "+b.Type, `There is only scenario "NAME" "LABEL" { … }.`)
		return
	}
	if len(b.Labels) < 1 || len(b.Labels) > 2 {
		r.wrong(b.DefRange(), "a scenario has a name and a label", `Write scenario "NAME" { … } or scenario "NAME" "LABEL" { … }.`)
		return
	}
	s, err := r.scenarios.New(b.Labels[0])
	if err != nil {
		r.wrong(b.LabelRanges[0], "unknown scenario "+b.Labels[0], "There are "+joined(r.scenarios.Names())+".")
		return
	}
	p := base
	p.Scenario, p.Label = s, strings.Join(b.Labels[1:], "")
	for _, a := range inOrder(b.Body.Attributes) {
		if r.counts(a, &p) {
			continue
		}
		if f := s.Params.Lookup(a.Name); f != nil {
			r.set(f, a)
		} else {
			r.wrong(a.NameRange, "unknown field "+a.Name, fmt.Sprintf("Scenario %s has %s, and repeat and warmup.", s.Name, strings.Join(s.paramNames(), ", ")))
		}
	}
	for _, inner := range b.Body.Blocks {
		r.wrong(inner.TypeRange, "unknown block "+inner.Type, "A scenario has fields only.")
	}
	if slices.ContainsFunc(r.plan.Runs, func(o *Planned) bool { return o.Name == p.Name && o.Label == p.Label }) {
		r.wrong(b.DefRange(), "a second scenario "+p.title(), "Give it a label of its own.")
	}
	if len(r.plan.Runs) == MaxRuns {
		r.wrong(b.DefRange(), "too many scenarios", fmt.Sprintf("A file has at most %d.", MaxRuns))
		return
	}
	r.plan.Runs = append(r.plan.Runs, &p)
}

// set sets a parameter to a field's value.
func (r *reader) set(f *pflag.Flag, a *hclsyntax.Attribute) {
	v, diags := a.Expr.Value(nil)
	if r.diags = append(r.diags, diags...); diags.HasErrors() {
		return
	}
	texts, list, ok := textsOf(v)
	if !ok {
		r.wrong(a.Expr.Range(), a.Name+" has a value of the wrong kind", "Write text, a number, true or false, or a list of such.")
		return
	}
	var err error
	if slice, many := f.Value.(pflag.SliceValue); many {
		if !list {
			texts = strings.Split(texts[0], ",")
		}
		err = slice.Replace(texts)
	} else if list {
		err = fmt.Errorf("it is one value, not a list")
	} else {
		err = f.Value.Set(texts[0])
	}
	if err != nil {
		form, _ := Describe(f)
		r.wrong(a.Expr.Range(), a.Name+" cannot be that", fmt.Sprintf("It is of type %s: %s.", form, strings.TrimPrefix(err.Error(), "strconv.")))
	}
}

// textsOf writes a value as a flag would have it, or the values of a list.
func textsOf(v cty.Value) (texts []string, list, ok bool) {
	if v.IsNull() || !v.IsWhollyKnown() {
		return nil, false, false
	}
	if t := v.Type(); t.IsTupleType() || t.IsListType() || t.IsSetType() {
		for _, item := range v.AsValueSlice() {
			one, inner, ok := textsOf(item)
			if !ok || inner {
				return nil, true, false
			}
			texts = append(texts, one...)
		}
		return texts, true, true
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil || s.IsNull() {
		return nil, false, false
	}
	return []string{s.AsString()}, false, true
}

// inOrder sorts fields by their places.
func inOrder(fields hclsyntax.Attributes) []*hclsyntax.Attribute {
	var out []*hclsyntax.Attribute
	for _, a := range fields {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.NameRange.Start.Byte, b.NameRange.Start.Byte)
	})
	return out
}

// mistakes makes one error of all, a line each.
func mistakes(diags hcl.Diagnostics) error {
	var lines []string
	for _, d := range diags {
		at := ""
		if d.Subject != nil {
			at = d.Subject.String() + ": "
		}
		lines = append(lines, fmt.Sprintf("%s%s. %s", at, strings.TrimSuffix(d.Summary, "."), d.Detail))
	}
	return starling.Invalidf("scenario file", "%s", strings.Join(lines, "\n"))
}
