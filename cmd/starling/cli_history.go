package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func historyCommand() *cobra.Command {
	var diff, provenance bool
	var limit int
	var before string
	c := apiCommand("history APP [FROM TO]", "Tell who deployed what, when and from where; --diff FROM TO: what lies between two deployments", cobra.ArbitraryArgs,
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			switch {
			case diff && len(args) == 3:
				d, err := c.Diff(cmd.Context(), args[0], args[1], args[2])
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(cmd.OutOrStdout(), d)
				}
				return printDiff(cmd.OutOrStdout(), d)
			case provenance && !diff && len(args) == 1:
				p, err := c.Provenance(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(cmd.OutOrStdout(), p)
				}
				return printProvenance(cmd.OutOrStdout(), p)
			case !diff && len(args) == 1:
				all, err := c.History(cmd.Context(), args[0], before, limit)
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(cmd.OutOrStdout(), all)
				}
				return printHistory(cmd.OutOrStdout(), all)
			}
			return &exitError{exitUsage, "want an app; with --diff an app and two deployments; with --provenance a deployment"}
		})
	c.Flags().BoolVar(&diff, "diff", false, "compare the specs of two deployments and list the commits between them")
	c.Flags().BoolVar(&provenance, "provenance", false, "of a deployment: who built its artifact, from what, and who signed it")
	c.Flags().IntVar(&limit, "limit", 20, "deployments, 1000 at most")
	c.Flags().StringVar(&before, "before", "", "go on after this deployment")
	return c
}

func printHistory(w io.Writer, all []starling.HistoryEntry) error {
	for i := range all {
		e := &all[i]
		what := "artifact " + e.Artifact.Short()
		if e.SHA != "" {
			what = "commit " + shortSHA(e.SHA)
		}
		if e.RollbackOf != "" {
			what = "back to " + e.RollbackOf + ", " + what
		}
		fmt.Fprintf(w, "%s  %s  %s  %s by %s%s\n", e.CreatedAt.Local().Format(time.DateTime), e.ID, e.Phase, what, e.Actor, fromText(e.From))
		if e.Reason != "" {
			fmt.Fprintf(w, "  reason: %s\n", e.Reason)
		}
		if e.Approval != nil {
			fmt.Fprintf(w, "  approved by %s, %s, plan %s\n", e.Approval.By, e.Approval.At.Local().Format(time.DateTime), e.Approval.Plan.Short())
		}
		if err := printChanges(w, e.Changes); err != nil {
			return err
		}
		if e.Commits == nil {
			continue
		}
		if err := printCommits(w, e.Commits.Commits, e.Commits.Omitted); err != nil {
			return err
		}
		if e.Commits.Removed > 0 {
			fmt.Fprintf(w, "  without %d commits that ran before, since %s\n", e.Commits.Removed, shortSHA(e.Commits.Since))
		}
		if e.Commits.Problem != "" {
			fmt.Fprintf(w, "  commits since %s: %s\n", shortSHA(e.Commits.Since), e.Commits.Problem)
		}
	}
	return nil
}

func fromText(o *starling.Origin) string {
	if o == nil {
		return ""
	}
	s := " from " + orDash(o.Addr)
	if o.Agent != "" {
		s += " (" + o.Agent + ")"
	}
	return s
}

func printCommits(w io.Writer, commits []starling.Commit, omitted int) error {
	for _, c := range commits {
		if _, err := fmt.Fprintf(w, "  %s  %s  %s, %s\n", c.SHA, c.Subject, c.Author, c.At.Local().Format(time.DateTime)); err != nil {
			return err
		}
	}
	if omitted > 0 {
		_, err := fmt.Fprintf(w, "  and %d older commits\n", omitted)
		return err
	}
	return nil
}

func printDiff(w io.Writer, d *starling.DeploymentDiff) error {
	fmt.Fprintf(w, "%s: %s (commit %s) → %s (commit %s)\n", d.App, d.From, orDash(shortSHA(d.SHAs[0])), d.To, orDash(shortSHA(d.SHAs[1])))
	if err := printChanges(w, d.Changes); err != nil {
		return err
	}
	if err := printCommits(w, d.Commits, 0); err != nil {
		return err
	}
	for _, id := range d.Gaps {
		if _, err := fmt.Fprintf(w, "  not all commits of %s are known\n", id); err != nil {
			return err
		}
	}
	return nil
}

func printProvenance(w io.Writer, p *starling.Provenance) error {
	return printTable(w, "WHAT\tVALUE", func(row func(...any)) {
		row("deployment", p.Deployment+" of "+p.App)
		row("commit", orDash(p.SHA))
		if a := p.Artifact; a != nil {
			row("artifact", a.Digest)
			row("build key", orDash(a.BuildKey))
			row("sandboxed", a.Sandboxed)
			if b := a.Built; b != nil {
				row("built for", b.Deployment)
				row("by worker", b.Worker)
				row("began", b.StartedAt.Local().Format(time.DateTime))
				row("ended", b.EndedAt.Local().Format(time.DateTime))
				row("command", p.Command)
			} else {
				row("pushed by", a.Actor)
			}
		}
		if s := p.Signature; s != nil {
			row("signed by", fmt.Sprintf("%s %v", s.By, s.Roles))
			row("key", s.Key)
			row("signed at", s.At.Local().Format(time.DateTime))
		}
		if p.Problem != "" {
			row("problem", p.Problem)
		}
	})
}
