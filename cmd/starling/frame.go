package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
)

const (
	frameMaxRegions  = 12
	frameMinColumns  = 40
	frameRegionChars = 14
)

// frame draws how a deployment stands, in lines of at most so many columns: whose it is,
// the budget, a bar each for the caches and the machines of each region,
// and the sums. now is by the leader's clock.
func frame(p *starling.DeploymentProgress, now time.Time, columns int) []string {
	columns = max(columns, frameMinColumns)
	head := fmt.Sprintf("%s  %s  %s", p.Deployment, p.App, strings.ReplaceAll(string(p.Phase), "_", " "))
	switch {
	case p.Phase == starling.PhaseBuilding:
		head += fmt.Sprintf("  attempt %d on %s", p.Attempt, p.Worker)
	case p.Phase == starling.PhaseRollingOut && p.Step != "":
		head += ": " + p.Step
	case p.Phase.Terminal() && p.Reason != "":
		head += "  " + oneLine(p.Reason)
	case p.Phase == starling.PhaseAwaitingApproval:
		head += fmt.Sprintf(": starling approve %s", p.Deployment)
	}
	if p.Paused {
		head += "  PAUSED: starling resume " + p.Deployment
	}
	out := []string{head, budgetLine(p, now, columns)}
	if p.Phase != starling.PhaseQueued && p.Phase != starling.PhaseBuilding {
		out = append(out, regionLines(p, columns)...)
	}
	for i := range out {
		out[i] = cutTo(out[i], columns)
	}
	return out
}

func budgetLine(p *starling.DeploymentProgress, now time.Time, columns int) string {
	whole, used := p.Deadline.Sub(p.CreatedAt), max(0, now.Sub(p.CreatedAt))
	text := fmt.Sprintf(" %s of %s", used.Round(time.Second), shortTime(whole))
	if left := toGo(p, now); left != "" {
		text += ", " + left
	}
	return fmt.Sprintf("%-*s %s%s", frameRegionChars, "budget", bar(int(used/time.Millisecond), int(whole/time.Millisecond), max(10, columns-frameRegionChars-3-len(text))), text)
}

// regionLines draws the regions, those that are least far first where there are too many.
func regionLines(p *starling.DeploymentProgress, columns int) []string {
	caches := 10
	machines := max(8, columns-frameRegionChars-caches-38)
	var out []string
	for i := range p.Regions {
		if i == frameMaxRegions {
			out = append(out, fmt.Sprintf("and %d more regions: starling why %s", len(p.Regions)-i, p.Deployment))
			break
		}
		r := &p.Regions[i]
		done, total := r.ChunksDone, r.ChunksTotal
		if r.Placed {
			done, total = 1, 1
		}
		line := fmt.Sprintf("%-*s caches %s machines %s", frameRegionChars, cutTo(r.Name, frameRegionChars), bar(done, total, caches), bar(stageOf(p, r), r.Target, machines))
		switch {
		case !r.Heard && !p.Phase.Terminal():
			line += " not heard yet"
		case r.SilentMS > 0:
			line += fmt.Sprintf(" silent %s", time.Duration(r.SilentMS)*time.Millisecond)
		case r.Failed > 0:
			line += fmt.Sprintf(" %d/%d %d failed", stageOf(p, r), r.Target, r.Failed)
		default:
			line += fmt.Sprintf(" %d/%d", stageOf(p, r), r.Target)
		}
		out = append(out, line)
	}
	n := &p.Machines
	long := max(10, columns-frameRegionChars-40)
	out = append(out, fmt.Sprintf("%-*s %s %d/%d", frameRegionChars, "hold it", bar(n.Staged, n.Target, long), n.Staged, n.Target))
	activated := fmt.Sprintf("%-*s %s %d/%d", frameRegionChars, "healthy", bar(n.Healthy, n.Target, long), n.Healthy, n.Target)
	if n.Failed > 0 {
		activated += fmt.Sprintf(" %d failed", n.Failed)
	}
	return append(out, activated)
}

// stageOf counts what the present phase waits for.
func stageOf(p *starling.DeploymentProgress, r *starling.RegionProgress) int {
	if p.Phase == starling.PhaseRollingOut || p.Phase.Terminal() {
		return r.Healthy
	}
	return r.Staged
}

// bar draws done of total in so many columns, brackets included.
func bar(done, total, columns int) string {
	columns = max(columns-2, 1)
	n := 0
	if total > 0 {
		n = min(columns, max(0, done)*columns/total)
	}
	b := strings.Repeat("=", n)
	if n > 0 && n < columns {
		b = b[:n-1] + ">"
	}
	return "[" + b + strings.Repeat(" ", columns-n) + "]"
}

// cutTo cuts a line to so many characters.
func cutTo(s string, columns int) string {
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	return string([]rune(s)[:columns-1]) + "…"
}

func shortTime(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
