package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// maxSourcesShown bounds the table of sources; --json has all.
const maxSourcesShown = 12

func whyCommand() *cobra.Command {
	var machine, region string
	var chunks bool
	c := apiCommand("why ID", "Tell what a deployment waits for, where its bytes came from, and what was slow", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			if machine == "" && (region != "" || chunks) {
				return &exitError{exitUsage, "--region and --chunks are about a machine: name it with --machine"}
			}
			w, err := c.Why(cmd.Context(), args[0], machine, region)
			switch {
			case err != nil:
				return err
			case a.json:
				return printJSON(cmd.OutOrStdout(), w)
			case w.Account == nil:
				return printWhy(cmd.OutOrStdout(), w)
			case chunks:
				return printChunks(cmd.OutOrStdout(), w.Account)
			}
			return printAccount(cmd.OutOrStdout(), w.Account)
		})
	c.Flags().StringVar(&machine, "machine", "", "ask this machine how the artifact came to it")
	c.Flags().StringVar(&region, "region", "", "the machine's region, where several have one of its name")
	c.Flags().BoolVar(&chunks, "chunks", false, "list each chunk with its source and what bounded it")
	return c
}

// sourceWords name the kinds of sources for people.
var sourceWords = map[starling.SourceKind]string{
	starling.SourceCache: "caches", starling.SourceRack: "same rack", starling.SourceZone: "same zone",
	starling.SourceRegion: "same region", starling.SourceLocal: "own disk",
}

// boundWords name the bounds for people.
var boundWords = map[starling.Bound]string{
	starling.BoundOwnLink: "its own link", starling.BoundPeerLink: "links of peers", starling.BoundCache: "caches",
	starling.BoundDisk: "its disk", starling.BoundCPU: "CPU", starling.BoundWaiting: "waiting for chunks to be near",
	starling.BoundPrepare: "manifest and clones", starling.BoundUnknown: "not known yet",
}

func inWords[K ~string](words map[K]string, k K) string {
	if w := words[k]; w != "" {
		return w
	}
	return string(k)
}

func percent(part, all int64) string {
	if all <= 0 {
		return "-"
	}
	return strconv.FormatFloat(100*float64(part)/float64(all), 'f', 1, 64) + " %"
}

// printBytes writes the table of bytes by source.
func printBytes(w io.Writer, b starling.Bytes, more ...any) error {
	rows := []struct {
		name string
		n    int64
	}{
		{"caches", b.CacheOut}, {"same rack", b.PeerRack}, {"same zone", b.PeerZone}, {"same region", b.PeerRegion},
		{"own disk", b.Local},
	}
	if rest := b.Peer - b.PeerRack - b.PeerZone - b.PeerRegion; rest > 0 { // of machines that run an older version
		rows = append(rows, struct {
			name string
			n    int64
		}{"other machines", rest})
	}
	var all int64
	for _, r := range rows {
		all += r.n
	}
	return printTable(w, "FROM\tBYTES\tSHARE", func(row func(...any)) {
		for _, r := range rows {
			row(r.name, humanBytes(r.n), percent(r.n, all))
		}
		for i := 0; i+1 < len(more); i += 2 {
			row(more[i], more[i+1], "")
		}
	})
}

// printWhy shows a deployment as its home's leader knows it.
func printWhy(out io.Writer, y *starling.Why) error {
	since := ""
	if !y.Phase.Terminal() {
		since = " for " + ms(y.PhaseMS)
	}
	fmt.Fprintf(out, "%s of %s is %s%s; took: %s\n", y.Deployment, y.App, y.Phase, since, stagesOf(y.Timings))
	if y.Reason != "" {
		fmt.Fprintln(out, "  reason: "+y.Reason)
	}
	if y.Fence != nil {
		fmt.Fprintln(out, "  "+fenceText(y.Fence))
	}
	for _, sentence := range y.Answer {
		fmt.Fprintln(out, "  "+oneLine(sentence))
	}
	if len(y.Answer) == 0 { // of a server of the version before
		for _, m := range y.WaitsFor {
			fmt.Fprintln(out, "  waits for: "+m)
		}
	}
	fmt.Fprintln(out)
	if err := printBytes(out, y.Bytes, "between regions", humanBytes(y.Bytes.WAN), "artifact", humanBytes(y.Bytes.Artifact)); err != nil {
		return err
	}
	fmt.Fprintln(out)
	err := printTable(out, "REGION\tPLACED\tCHUNKS\tSTAGED\tHEALTHY\tFAILED\tCACHES\tPEERS\tWAN\tHEARD", func(row func(...any)) {
		for _, r := range y.Regions {
			if !r.Heard {
				row(r.Name, r.Placed, fmt.Sprintf("%d/%d", r.ChunksDone, r.ChunksTotal), "-", "-", "-", "-", "-", "-", "-")
				continue
			}
			row(r.Name, r.Placed, fmt.Sprintf("%d/%d", r.ChunksDone, r.ChunksTotal), fmt.Sprintf("%d/%d", r.Staged, r.Target), r.Healthy, r.Failed,
				humanBytes(r.Bytes.CacheOut), humanBytes(r.Bytes.Peer), humanBytes(r.Bytes.WAN), ms(r.SilentMS)+" ago")
		}
	})
	if err != nil {
		return err
	}
	return printNamed(out, &y.Machines)
}

func stagesOf(t starling.Timings) string {
	return fmt.Sprintf("queued %s, build %s, replicate %s, stage %s, roll-out %s", ms(t.QueuedMS), ms(t.BuildMS), ms(t.ReplicateMS), ms(t.StageMS), ms(t.RolloutMS))
}

// printNamed shows the machines that counts name.
func printNamed(out io.Writer, c *starling.Counts) error {
	if len(c.Slowest) > 0 {
		fmt.Fprintln(out)
		err := printTable(out, "SLOWEST\tREGION\tFETCH\tMOSTLY", func(row func(...any)) {
			for _, m := range c.Slowest {
				row(m.Node, m.Region, ms(m.FetchMS), inWords(boundWords, m.Bound))
			}
		})
		if err != nil {
			return err
		}
	}
	if len(c.Distrusted) > 0 {
		fmt.Fprintln(out)
		err := printTable(out, "DISTRUSTED\tREGION\tBY\tBECAUSE IT", func(row func(...any)) {
			for _, a := range c.Distrusted {
				by := a.By
				if a.Accusers > 1 {
					by += fmt.Sprintf(" and %d more", a.Accusers-1)
				}
				row(nameOf(a.Node, a.Cache), a.Region, by, a.Reason)
			}
		})
		if err != nil {
			return err
		}
	}
	for _, f := range c.Samples {
		fmt.Fprintf(out, "failed: %s/%s: %s\n", f.Region, f.Node, f.Reason)
	}
	return nil
}

func nameOf(node string, cache bool) string {
	if cache {
		return node + " (cache)"
	}
	return node
}

// printAccount shows how an artifact came to one machine.
func printAccount(out io.Writer, a *starling.Account) error {
	state := "still under way"
	if !a.EndedAt.IsZero() {
		state = "done " + a.EndedAt.Local().Format(time.DateTime)
	}
	fmt.Fprintf(out, "%s in %s (zone %s, rack %s): %s of %s in %s, %s\n\n", a.Node, a.Region, orDash(a.Zone), orDash(a.Rack),
		a.Artifact.Short(), humanBytes(a.Bytes.Artifact), ms(a.TookMS), state)
	if err := printBytes(out, a.Bytes, "held before", humanBytes(a.HeldBytes)); err != nil {
		return err
	}
	fmt.Fprintln(out)
	err := printTable(out, "BOUND BY\tTIME\tSHARE\tCHUNKS", func(row func(...any)) {
		for _, t := range a.Time {
			if t.MS > 0 || t.Chunks > 0 {
				row(inWords(boundWords, t.Bound), ms(t.MS), percent(t.MS, a.TookMS), t.Chunks)
			}
		}
	})
	if err != nil {
		return err
	}
	limit := "no download cap"
	if a.CapBytesPerSecond > 0 {
		limit = "download cap " + rateOf(a.CapBytesPerSecond)
	}
	fmt.Fprintf(out, "best rate since this machine started: %s; %s\n\n", rateOf(a.BestBytesPerSecond), limit)
	return printSources(out, a)
}

func rateOf(bytesPerSecond int64) string {
	return fmt.Sprintf("%.1f MB/s", float64(bytesPerSecond)/1e6)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printSources lists the sources that gave most, and all that are distrusted.
func printSources(out io.Writer, a *starling.Account) error {
	var got int64
	for i := range a.Sources {
		got += a.Sources[i].Bytes
	}
	sources := slices.Clone(a.Sources)
	slices.SortStableFunc(sources, func(x, y starling.SourceAccount) int {
		if (x.Distrusted != "") != (y.Distrusted != "") { // liars are never cut off
			if x.Distrusted != "" {
				return -1
			}
			return 1
		}
		return int(min(max(y.Bytes-x.Bytes, -1), 1))
	})
	shown := sources[:min(len(sources), maxSourcesShown)]
	err := printTable(out, "SOURCE\tWHERE\tBYTES\tSHARE\tRATE\tWAIT\tFAILED\tDISTRUSTED", func(row func(...any)) {
		for _, s := range shown {
			wait := "-"
			if n := requestsOf(&s); n > 0 {
				wait = ms(s.WaitMS / n)
			}
			name := s.Name
			if name == "" {
				name = "(others)"
			}
			row(name, inWords(sourceWords, s.Kind), humanBytes(s.Bytes), percent(s.Bytes, got), rateOf(s.BytesPerSecond()), wait, failuresOf(&s), s.Distrusted)
		}
	})
	if err == nil && len(sources) > len(shown) {
		_, err = fmt.Fprintf(out, "and %d more: --json shows all\n", len(sources)-len(shown))
	}
	return err
}

func requestsOf(s *starling.SourceAccount) int64 {
	n := int64(s.Chunks)
	for _, failed := range s.Failures {
		n += int64(failed)
	}
	return n
}

func failuresOf(s *starling.SourceAccount) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(s.Failures)) {
		parts = append(parts, fmt.Sprintf("%d %s", s.Failures[reason], reason))
	}
	return orDash(strings.Join(parts, ", "))
}

// printChunks lists chunks in the order in which they came.
func printChunks(out io.Writer, a *starling.Account) error {
	err := printTable(out, "CHUNK\tSOURCE\tWHERE\tTOOK\tBOUND BY", func(row func(...any)) {
		for i, chunk := range a.Trace.Chunk {
			s := &a.Sources[a.Trace.Source[i]]
			row(chunk, orDash(s.Name), inWords(sourceWords, s.Kind), ms(int64(a.Trace.TookMS[i])), inWords(boundWords, a.Time[a.Trace.Bound[i]].Bound))
		}
	})
	if err == nil && a.Trace.Omitted > 0 {
		_, err = fmt.Fprintf(out, "and %d more, in the sums only\n", a.Trace.Omitted)
	}
	return err
}
