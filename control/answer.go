package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// maxNamedInAnswer bounds the deployments, workers or machines that one sentence names.
const maxNamedInAnswer = 5

// surroundings is what a leader knows beside reports of why a deployment waits.
type surroundings struct {
	nodes   []starling.Node                                 // of this region
	heard   time.Time                                       // last heartbeat of its build
	regions func(name string) (starling.RegionStatus, bool) // of others
}

// answer says in whole sentences what a deployment under way waits for, who or what can
// change that, and for how long it has been so. Pure: the same view and observations give the
// same words.
func (c *deciding) answer(s *surroundings) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if c.dep.Paused {
		who := ""
		if h := c.dep.Hold; h != nil {
			who = fmt.Sprintf(" by %s %s ago", h.By, c.ago(h.At))
		}
		say("It was paused%s: nothing begins until `starling resume %s`.", who, c.dep.ID)
	}
	switch c.dep.Phase {
	case starling.PhaseQueued:
		out = append(out, c.whyQueued()...)
	case starling.PhaseBuilding:
		say("Attempt %d of %d is being built on worker %s for %s, of %s at most%s.", c.dep.Attempt, starling.MaxBuildAttempts, c.dep.Worker,
			c.ago(c.dep.PhaseAt), brief(c.buildTimeout()), c.lastSign(s.heard))
	case starling.PhaseReplicating:
		out = append(out, c.whyReplicating(s)...)
	case starling.PhaseAwaitingApproval:
		how := "`starling approve " + c.dep.ID + "`"
		if c.dep.Spec.Deploy.Strategy.ApprovalPlan {
			how += " with the hash of the plan that was shown"
		}
		say("It waits for an approval for %s: somebody with a token of role approver or operator must say %s.", c.ago(c.dep.PhaseAt), how)
	default:
		out = append(out, c.whyMachines(s)...)
	}
	for _, h := range c.missingHooks() {
		say("%s.", capital(h))
	}
	if f := c.frozen(); f != "" {
		say("It is %s: `starling resume %s --ignore-freeze` lets it go on.", f, c.dep.ID)
	}
	return out
}

func (c *deciding) ago(at time.Time) string {
	return brief(max(0, c.obs.Now.Sub(at)).Truncate(time.Second))
}

func (c *deciding) lastSign(at time.Time) string {
	if at.IsZero() {
		return "; this leader has not heard of the worker yet"
	}
	return fmt.Sprintf("; the worker was last heard %s ago", c.ago(at))
}

func (c *deciding) buildTimeout() time.Duration {
	if b := c.dep.Spec.Build; b != nil {
		return b.Timeout.D()
	}
	return c.dep.Deadline.Sub(c.dep.CreatedAt)
}

// whyQueued says what is before a deployment: of its own app, and of others while workers
// are few.
func (c *deciding) whyQueued() []string {
	if o, ok := c.view.UnderWay(c.dep.App); ok {
		return []string{fmt.Sprintf("It waits for deployment %s of the same app, which is %s for %s: an app's deployments go one at a time.", o.ID, strings.ReplaceAll(string(o.Phase), "_", " "), c.ago(o.PhaseAt))}
	}
	if o, ok := c.view.NextForApp(c.dep.App); ok && o.ID != c.dep.ID {
		return []string{fmt.Sprintf("Deployment %s of the same app goes first: %s.", o.ID, before(o, c.dep))}
	}
	if !c.dep.Artifact.IsZero() {
		return []string{"It has its artifact and begins at once."}
	}
	waiting := c.view.Buildable()
	place, ahead := 0, []string{}
	for i, o := range waiting {
		if o.ID == c.dep.ID {
			place = i + 1
			break
		}
		ahead = append(ahead, fmt.Sprintf("%s of app %s (%s)", o.ID, o.App, before(o, c.dep)))
	}
	var out []string
	if c.obs.Workers == 0 {
		out = append(out, fmt.Sprintf("Nobody can build it: region %s has no live worker (an agent with the role worker, `--worker`).", c.dep.Home))
	} else {
		var busy []string
		for _, o := range c.view.Active() {
			if o.Phase == starling.PhaseBuilding {
				busy = append(busy, fmt.Sprintf("%s on %s for %s", o.ID, o.Worker, c.ago(o.PhaseAt)))
			}
		}
		out = append(out, fmt.Sprintf("No worker has a free slot: %d live in region %s, building %s.", c.obs.Workers, c.dep.Home, named(busy, "nothing that this leader knows of")))
	}
	if place > 0 {
		out = append(out, fmt.Sprintf("It is number %d of %d apps' jobs that wait for a worker; before it: %s.", place, len(waiting), named(ahead, "none")))
	}
	return out
}

// before says why one deployment goes before another.
func before(o, d *starling.Deployment) string {
	if o.Priority > d.Priority {
		return fmt.Sprintf("priority %d before %d", o.Priority, d.Priority)
	}
	return "submitted earlier"
}

// named lists a few and counts the others.
func named(all []string, none string) string {
	if len(all) == 0 {
		return none
	}
	text := strings.Join(all[:min(len(all), maxNamedInAnswer)], ", ")
	if more := len(all) - maxNamedInAnswer; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// whyReplicating names the regions that do not hold the artifact, the one that is least
// far first, and what ails them.
func (c *deciding) whyReplicating(s *surroundings) []string {
	var out []string
	for _, p := range c.dep.Regions {
		r, ok := c.report(p.Name)
		if p.Placed || ok && r.Placing.Placed {
			continue
		}
		text := fmt.Sprintf("Region %s has not told how far it is", p.Name)
		if ok {
			text = fmt.Sprintf("Region %s holds %d of %d chunks after %s", p.Name, max(0, r.Placing.ChunksDone), max(0, r.Placing.ChunksTotal), c.ago(c.dep.PhaseAt))
		}
		out = append(out, text+c.ails(s, p.Name, r, ok)+".")
	}
	if len(out) > 0 {
		gate := "all regions must hold"
		switch c.dep.Spec.Deploy.Strategy.Gate {
		case starling.GateQuorum:
			gate = "most regions must hold"
		case starling.GateEach:
			gate = "one region must hold"
		}
		out = append(out, fmt.Sprintf("The gate: %s the artifact before machines may activate.", gate))
	}
	return out
}

// ails says what is wrong with a region, as far as it is known here: no cache, silence.
func (c *deciding) ails(s *surroundings, region string, r Report, heard bool) string {
	var out string
	if region == c.dep.Home {
		caches := 0
		for _, n := range s.nodes {
			if n.Alive && n.Has(starling.RoleCache) {
				caches++
			}
		}
		if caches == 0 {
			out += "; it has no live cache"
		}
	} else if st, ok := s.regions(region); ok {
		switch {
		case !st.Seen && heard:
			out += fmt.Sprintf("; it is silent for %s: it has lost its quorum, or the way to it is cut", c.ago(r.At))
		case !st.Seen:
			out += "; none of its servers answers: it has lost its quorum, or the way to it is cut"
		case st.Caches == 0:
			out += "; it has no live cache"
		}
	} else {
		out += "; this leader has not heard of it yet"
	}
	return out
}

// whyMachines names the regions whose machines are awaited, and those machines that are
// slow or failed, with what bounds them.
func (c *deciding) whyMachines(s *surroundings) []string {
	var out []string
	for _, p := range c.dep.Regions {
		if !c.awaits(p.Name) {
			continue
		}
		r, ok := c.report(p.Name)
		if !ok {
			out = append(out, fmt.Sprintf("Region %s has not told of its machines%s.", p.Name, c.ails(s, p.Name, r, false)))
			continue
		}
		text := c.missingMachines(p, r)
		if text == "" {
			continue
		}
		if n := r.Counts.Absent; n > 0 {
			text += fmt.Sprintf(", %d more are not seen and not waited for", n)
		}
		text = capital(text)
		if silent := c.obs.Now.Sub(r.At); silent >= regionSeenWithin {
			text += c.ails(s, p.Name, r, true)
		}
		out = append(out, text+"."+slowest(r.Counts.Slowest)+failed(r.Counts.Samples))
	}
	if _, more := c.dep.NextStep(); len(out) == 0 && c.dep.Phase == starling.PhaseRollingOut && more {
		out = append(out, fmt.Sprintf("The machines of %s are well; it bakes for %s before the next.", c.dep.StepText(), brief(c.dep.Spec.Deploy.Strategy.Bake.D())))
	}
	return out
}

func boundText(b starling.Bound) string {
	switch b {
	case starling.BoundOwnLink:
		return "its own link"
	case starling.BoundPeerLink:
		return "the links of peers"
	case starling.BoundCache:
		return "the caches"
	case starling.BoundDisk:
		return "its disk"
	case starling.BoundCPU:
		return "its CPU"
	case starling.BoundWaiting:
		return "waiting for chunks to come near"
	case starling.BoundPrepare:
		return "preparing"
	}
	return "what is not known yet"
}

func slowest(all []starling.SlowMachine) string {
	var names []string
	for _, m := range all {
		names = append(names, fmt.Sprintf("%s (%s, bound by %s)", m.Node, brief((time.Duration(m.FetchMS)*time.Millisecond).Round(100*time.Millisecond)), boundText(m.Bound)))
	}
	if len(names) == 0 {
		return ""
	}
	return " Slowest to fetch: " + named(names, "") + "."
}

func failed(all []starling.FailureSample) string {
	var names []string
	for _, f := range all {
		names = append(names, fmt.Sprintf("%s: %s", f.Node, clip(f.Reason, 200)))
	}
	if len(names) == 0 {
		return ""
	}
	return " Failed: " + named(names, "") + "."
}

func capital(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
