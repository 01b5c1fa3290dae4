package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

const timelineColumns = 60 // of the bars

// span is one bar: from and to in milliseconds after the deployment's creation. open:
// it has not ended.
type span struct {
	name     string
	from, to int64
	open     bool
}

// spansOf draws a deployment's moments together to bars, at the time now (in
// milliseconds after its creation): build and upload, each region's replication and
// staging, the roll-out. What never began has none.
func spansOf(d *starling.Deployment, now int64) []span {
	at := map[[2]string]int64{}
	for _, m := range d.Timeline() {
		at[[2]string{m.Region, m.Event}] = m.AtMS
	}
	var out []span
	add := func(name, region, begin, end string) {
		from := at[[2]string{region, begin}]
		if from == 0 {
			return
		}
		s := span{name: name, from: from, to: at[[2]string{region, end}]}
		if s.to == 0 {
			s.to, s.open = max(now, from), !d.Phase.Terminal()
		}
		out = append(out, s)
	}
	add("build", d.Home, starling.MomentBuildBegan, starling.MomentManifest)
	add("upload", d.Home, starling.MomentFirstUpload, starling.MomentManifest)
	for _, p := range d.Regions {
		add(p.Name+": replicate", p.Name, starling.MomentFirstByte, starling.MomentPlaced)
		add(p.Name+": stage", p.Name, starling.MomentFirstFetch, starling.MomentAllStaged)
	}
	add("roll out", d.Home, starling.MomentRolloutBegan, starling.MomentEnded)
	return out
}

// printTimeline draws the bars below each other, and says how much they overlap.
func printTimeline(w io.Writer, d *starling.Deployment, now time.Time) error {
	end := d.Timings.TotalMS
	if !d.Phase.Terminal() {
		end = max(0, now.Sub(d.CreatedAt).Milliseconds())
	}
	spans := spansOf(d, end)
	if len(spans) == 0 {
		_, err := fmt.Fprintln(w, "  nothing has moved yet")
		return err
	}
	wide := 0
	for _, s := range spans {
		end, wide = max(end, s.to), max(wide, len(s.name))
	}
	column := func(ms int64) int { return int(ms * timelineColumns / max(end, 1)) }
	var b strings.Builder
	for _, s := range spans {
		from := min(column(s.from), timelineColumns-1)
		n := max(1, column(s.to)-from)
		bar := strings.Repeat("=", n)
		if s.open {
			bar = bar[:n-1] + ">"
		}
		fmt.Fprintf(&b, "  %-*s |%s%s%s| %s - %s\n", wide, s.name, strings.Repeat(" ", from), bar,
			strings.Repeat(" ", max(0, timelineColumns-from-n)), ms(s.from), ms(s.to))
	}
	overlapText(&b, d, spans)
	_, err := io.WriteString(w, b.String())
	return err
}

// overlapText compares the way of the bytes with one in which upload, the slowest
// replication and the slowest staging would follow each other.
func overlapText(b *strings.Builder, d *starling.Deployment, spans []span) {
	var early int64
	for _, t := range d.Times {
		early += t.EarlyBytes
	}
	if early > 0 && d.Bytes.WAN > 0 {
		fmt.Fprintf(b, "  between regions before the manifest was known: %s of %s (%d %%)\n",
			humanBytes(early), humanBytes(d.Bytes.WAN), min(100, 100*early/d.Bytes.WAN))
	}
	longest := map[string]int64{}
	var moving []span
	for _, s := range spans {
		_, step, regional := strings.Cut(s.name, ": ")
		if step = cmp.Or(step, s.name); regional || step == "upload" {
			longest[step] = max(longest[step], s.to-s.from)
			moving = append(moving, s)
		}
	}
	if len(longest) < 2 {
		return
	}
	var sum int64
	for _, n := range longest {
		sum += n
	}
	first := slices.MinFunc(moving, func(a, b span) int { return cmp.Compare(a.from, b.from) }).from
	last := slices.MaxFunc(moving, func(a, b span) int { return cmp.Compare(a.to, b.to) }).to
	fmt.Fprintf(b, "  bytes moved for %s; the longest upload, replication and staging one after the other: %s\n", ms(last-first), ms(sum))
}
