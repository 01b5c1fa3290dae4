package starling

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Gate says when machines may begin.
type Gate string

// The gates.
const (
	GateAllRegions Gate = "all_regions"
	GateQuorum     Gate = "quorum"
	GateEach       Gate = "each"
)

// Queue says what becomes of an app's queued deployments when a newer one is submitted.
type Queue string

// The queues.
const (
	QueueLatest Queue = "latest" // the newer one supersedes them, unless their priority is higher
	QueueEvery  Queue = "every"  // each has its turn; also if empty. App files say latest unless told otherwise
)

// Strategy says how a release rolls out: in steps, each of which lets a greater share of the
// machines of one group of regions activate.
type Strategy struct {
	Gate  Gate     `json:"gate"`
	Waves []string `json:"waves"` // rising percentages, the last 100%
	// Regions are groups in the order in which they roll out: a group's regions begin once
	// the former group's last wave has settled and baked. Regions that no group names are
	// the last group. Empty: all at once.
	Regions   [][]string `json:"regions,omitempty"`
	Bake      Duration   `json:"bake"`       // wait after each step but the last
	MaxFailed string     `json:"max_failed"` // a share of the targets ("5%") or a number of machines ("12")
	// MinHealthyTime is for how long a machine must be healthy before it counts as that; the
	// health check's healthy_after, where that is longer. 0: that alone.
	MinHealthyTime Duration `json:"min_healthy_time,omitempty"`
	// ProgressDeadline ends a deployment as failed when for so long no awaited machine has
	// come any further. 0: only the deployment's deadline does.
	ProgressDeadline Duration `json:"progress_deadline,omitempty"`
	Freeze           []Freeze `json:"freeze,omitempty"` // while one is in force, no step begins
	Queue            Queue    `json:"queue,omitempty"`
	AutoRevert       bool     `json:"auto_revert"`
	Approval         bool     `json:"approval"`
	// ApprovalPlan: an approval must name the hash of the plan that was shown. Without it,
	// one that names none counts as long as nothing has changed since the submission.
	ApprovalPlan bool `json:"approval_plan,omitempty"`
}

// Bounds of a strategy.
const (
	MaxWaves           = 100
	MaxStrategyRegions = 64
	MaxSteps           = 400 // groups, the unnamed regions' among them, times waves
	MaxFreezes         = 32
)

// Step is one rise of the cutoff.
type Step struct {
	Index   int      `json:"index"` // what Deployment.Wave counts: Group times the number of waves, plus Wave
	Group   int      `json:"group"`
	Wave    int      `json:"wave"`    // within the group
	Share   string   `json:"share"`   // of the machines of the group's regions
	Regions []string `json:"regions"` // of the group, as far as they take part
}

func (s *Strategy) validate() error {
	switch s.Gate {
	case GateAllRegions, GateQuorum, GateEach:
	default:
		return Invalidf("deploy.strategy.gate", "%q: use all_regions, quorum or each", s.Gate)
	}
	switch s.Queue {
	case "", QueueLatest, QueueEvery:
	default:
		return Invalidf("deploy.strategy.queue", "%.40q: use latest or every", s.Queue)
	}
	if _, err := s.Cutoffs(); err != nil {
		return err
	}
	if err := s.checkRegions(); err != nil {
		return err
	}
	if _, err := ParseAllowance(s.MaxFailed); err != nil {
		return Invalidf("deploy.strategy.max_failed", "%v", err)
	}
	for _, x := range []struct {
		field string
		d     Duration
	}{{"min_healthy_time", s.MinHealthyTime}, {"progress_deadline", s.ProgressDeadline}} {
		if x.d < 0 || x.d > Duration(MaxDeadline) {
			return Invalidf("deploy.strategy."+x.field, "%s is not within 0s and %s", x.d, MaxDeadline)
		}
	}
	if s.ApprovalPlan && !s.Approval {
		return Invalidf("deploy.strategy.approval_plan", "says how to approve: set approval, too")
	}
	if s.Bake < 0 {
		return Invalidf("deploy.strategy.bake", "is negative")
	}
	return checkFreezes("deploy.strategy.freeze", s.Freeze)
}

func (s *Strategy) checkRegions() error {
	seen := map[string]bool{}
	for i, group := range s.Regions {
		field := fmt.Sprintf("deploy.strategy.regions[%d]", i)
		if len(group) == 0 {
			return Invalidf(field, "the group is empty")
		}
		for _, r := range group {
			if err := CheckName(field, r); err != nil {
				return err
			}
			if seen[r] {
				return Invalidf(field, "%s is named twice", r)
			}
			seen[r] = true
		}
	}
	if n := len(seen); n > MaxStrategyRegions {
		return Invalidf("deploy.strategy.regions", "%d regions, more than %d", n, MaxStrategyRegions)
	}
	if n := (len(s.Regions) + 1) * len(s.Waves); len(s.Regions) > 0 && n > MaxSteps {
		return Invalidf("deploy.strategy.regions", "%d groups, with the unnamed regions', of %d waves are more than %d steps", len(s.Regions)+1, len(s.Waves), MaxSteps)
	}
	return nil
}

// Cutoffs returns the waves as rising cutoffs, the last CutoffAll.
func (s *Strategy) Cutoffs() ([]Cutoff, error) {
	var out []Cutoff
	for _, w := range s.Waves {
		f, err := ParsePercent(w)
		if err != nil {
			return nil, Invalidf("deploy.strategy.waves", "%v", err)
		}
		c := Cutoff(f * float64(CutoffAll))
		if c == 0 || (len(out) > 0 && c <= out[len(out)-1]) {
			return nil, Invalidf("deploy.strategy.waves", "%q does not rise", w)
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(out) > MaxWaves || out[len(out)-1] != CutoffAll {
		return nil, Invalidf("deploy.strategy.waves", "want 1 to %d waves, the last 100%%", MaxWaves)
	}
	return out, nil
}

// Steps returns the steps of a roll-out to the regions that take part, in order. Groups of
// which none takes part are left out, as their indices are.
func (s *Strategy) Steps(taking []Placing) []Step {
	var steps []Step
	for group := range len(s.Regions) + 1 {
		regions := s.regionsOf(group, taking)
		if len(regions) == 0 {
			continue
		}
		for wave, share := range s.Waves {
			steps = append(steps, Step{Index: group*len(s.Waves) + wave, Group: group, Wave: wave, Share: share, Regions: regions})
		}
	}
	return steps
}

// regionsOf returns those of a group that take part, in the order of taking.
func (s *Strategy) regionsOf(group int, taking []Placing) []string {
	var out []string
	for _, p := range taking {
		if s.GroupOf(p.Name) == group {
			out = append(out, p.Name)
		}
	}
	return out
}

// GroupOf returns a region's place in the order; len(s.Regions) for one that is not named.
func (s *Strategy) GroupOf(region string) int {
	for i, group := range s.Regions {
		if slices.Contains(group, region) {
			return i
		}
	}
	return len(s.Regions)
}

// Reach returns which machines a step lets activate: a cutoff for all regions, and for
// those that are ahead of that their own. last: no step follows.
func (s *Strategy) Reach(index int, last bool) (all Cutoff, ahead map[string]Cutoff, err error) {
	cutoffs, err := s.Cutoffs()
	if err != nil {
		return 0, nil, err
	}
	if last {
		return CutoffAll, nil, nil
	}
	group, wave := index/len(cutoffs), index%len(cutoffs)
	if group < 0 || wave < 0 || group > len(s.Regions) {
		return 0, nil, Invalidf("wave", "there is no step %d", index)
	}
	ahead = map[string]Cutoff{}
	for g, regions := range s.Regions[:min(group+1, len(s.Regions))] {
		for _, r := range regions {
			if ahead[r] = CutoffAll; g == group {
				ahead[r] = cutoffs[wave]
			}
		}
	}
	if group == len(s.Regions) {
		all = cutoffs[wave]
	}
	maps.DeleteFunc(ahead, func(_ string, c Cutoff) bool { return c <= all })
	if len(ahead) == 0 {
		ahead = nil
	}
	return all, ahead, nil
}

// Steps returns the steps of d's roll-out in order.
func (d *Deployment) Steps() []Step { return d.Spec.Deploy.Strategy.Steps(d.Regions) }

// NextStep returns the step after the present one; false: that is the last.
func (d *Deployment) NextStep() (Step, bool) {
	for _, s := range d.Steps() {
		if s.Index > d.Wave {
			return s, true
		}
	}
	return Step{}, false
}

// Step returns the step under way, or the first while none is.
func (d *Deployment) Step() Step {
	s := &d.Spec.Deploy.Strategy
	if len(s.Waves) == 0 { // an old record
		return Step{}
	}
	at := Step{Index: d.Wave, Group: d.Wave / len(s.Waves), Wave: d.Wave % len(s.Waves)}
	at.Share, at.Regions = s.Waves[at.Wave], s.regionsOf(at.Group, d.Regions)
	return at
}

// StepText names the step under way for people: "wave 1 of 3", in which regions if they go
// one after the other.
func (d *Deployment) StepText() string {
	at := d.Step()
	text := fmt.Sprintf("wave %d of %d", at.Wave+1, len(d.Spec.Deploy.Strategy.Waves))
	switch {
	case len(d.Spec.Deploy.Strategy.Regions) == 0:
		return text
	case len(at.Regions) == 0: // another region has taken over from them
		return text + " in regions that are gone"
	}
	return text + " in " + strings.Join(at.Regions, ", ")
}

// Allowance is how many machines may fail.
type Allowance struct {
	Share    float64 // of the targets, 0 to 1
	Machines int     // -1: Share counts
}

// ParseAllowance reads "5%" or "12".
func ParseAllowance(s string) (Allowance, error) {
	if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n >= 0 {
		return Allowance{Machines: n}, nil
	}
	f, err := ParsePercent(s)
	if err != nil {
		return Allowance{}, fmt.Errorf("%.40q: want a percentage like 10%% or a number of machines", s)
	}
	return Allowance{Share: f, Machines: -1}, nil
}

// Exceeded reports whether so many failed machines are too many.
func (a Allowance) Exceeded(failed, targets int) bool {
	if a.Machines >= 0 {
		return failed > a.Machines
	}
	return float64(failed) > a.Share*float64(targets)
}

// ParsePercent reads "12.5%" as 0.125, within 0 and 1.
func ParsePercent(s string) (float64, error) {
	num, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	f, err := strconv.ParseFloat(num, 64)
	if !ok || err != nil || !(f >= 0 && f <= 100) {
		return 0, fmt.Errorf("%.40q: want a percentage like 10%%", s)
	}
	return f / 100, nil
}

// checkTrial wants room for a machine to become healthy at all.
func (d *DeploySpec) checkTrial() error {
	if h := d.Health; h != nil && d.Strategy.MinHealthyTime >= h.Deadline && h.Deadline > 0 && d.Strategy.MinHealthyTime > 0 {
		return Invalidf("deploy.strategy.min_healthy_time", "%s is not under deploy.health.deadline, %s, within which a machine must become healthy: raise that",
			d.Strategy.MinHealthyTime, h.Deadline)
	}
	return nil
}

// ForMachines returns d as machines get it: a health check that asks for as long as the
// strategy's min_healthy_time does, so that programs that do not know that keep to it too.
func (d DeploySpec) ForMachines() DeploySpec {
	if h := d.Health; h != nil && h.HealthyAfter < d.Strategy.MinHealthyTime {
		own := *h
		own.HealthyAfter = d.Strategy.MinHealthyTime
		d.Health = &own
	}
	return d
}
