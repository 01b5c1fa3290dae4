package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// Exit codes of plan: what it found, as terraform's and nomad's plan tell it.
const (
	exitChange = 1
	exitNoPlan = 255
)

func planCommand() *cobra.Command {
	var req starling.PlanRequest
	var artifact, file string
	c := apiCommand("plan APP", "Tell what deploy would do; exits 0 if nothing would change, 1 if something would, 255 for an error", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			req.App = args[0]
			change, err := plan(cmd, c, a, &req, artifact, file)
			if err != nil {
				return &codeError{err, exitNoPlan}
			}
			if change {
				return &exitError{exitChange, ""}
			}
			return nil
		})
	f := c.Flags()
	f.StringVar(&req.SHA, "sha", "", "commit to build (default: HEAD of the repository in this folder, if it is one, else the release that runs)")
	f.StringVar(&artifact, "artifact", "", "digest of an artifact to deploy as it is")
	f.StringVar(&file, "file", "", "app file, as if it had been applied before (- for standard input)")
	f.IntVar(&req.Priority, "priority", 0, "0 to 100; higher goes first")
	return c
}

func plan(cmd *cobra.Command, c *client.Client, a *apiFlags, req *starling.PlanRequest, artifact, file string) (change bool, err error) {
	if req.Artifact, err = starling.ParseDigest(artifact); err != nil {
		return false, fmt.Errorf("--artifact: %w", err)
	}
	if file != "" {
		if req.Spec, err = appIn(cmd.InOrStdin(), file, req.App); err != nil {
			return false, err
		}
	}
	if req.SHA == "" && req.Artifact.IsZero() {
		if sha, err := headSHA(cmd.Context()); err == nil {
			req.SHA = sha
		}
	}
	p, err := c.Plan(cmd.Context(), *req)
	if err != nil {
		return false, err
	}
	if a.json {
		return p.Change, printJSON(cmd.OutOrStdout(), p)
	}
	if err := printPlan(cmd.OutOrStdout(), p); err != nil || file == "" {
		return p.Change, err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nto apply the file as long as nobody else changes the app:\n  starling app apply --check-revision %d %s\n", p.Revision, file)
	return p.Change, err
}

// appIn returns one app of a file.
func appIn(stdin io.Reader, file, name string) (*starling.App, error) {
	src, err := readInput(stdin, file)
	if err != nil {
		return nil, err
	}
	apps, err := parseAppFile(file, src)
	if err != nil {
		return nil, err
	}
	for i := range apps {
		if apps[i].Name == name {
			return &apps[i], nil
		}
	}
	return nil, fmt.Errorf("%s: has no app %q", file, name)
}

// printPlan shows a plan.
func printPlan(w io.Writer, p *starling.Plan) error {
	what := "the release that runs"
	switch {
	case !p.Artifact.IsZero() && p.SHA != "":
		what = "commit " + shortSHA(p.SHA) + ", artifact " + p.Artifact.Short()
	case !p.Artifact.IsZero():
		what = "artifact " + p.Artifact.Short()
	case p.SHA != "":
		what = "commit " + shortSHA(p.SHA) + ", to be built"
	}
	follows := "; nothing runs yet"
	if !p.Previous.Artifact.IsZero() {
		follows = fmt.Sprintf("; after release %d, artifact %s", p.Previous.Generation.Sequence, p.Previous.Artifact.Short())
	}
	fmt.Fprintf(w, "%s: %s%s\n", p.App, what, follows)
	if !p.Change {
		fmt.Fprintln(w, "  nothing would change")
	}
	if !p.ChangedTo.IsZero() {
		fmt.Fprintf(w, "  the app's spec was changed since this was submitted (it is at revision %d): this deployment goes on with its own\n", p.Revision)
	}
	fmt.Fprintf(w, "  bytes: artifact %s, new on each machine %s (%s)\n", humanBytes(p.Bytes.Artifact), humanBytes(p.Bytes.New), p.Bytes.Basis)
	fmt.Fprintf(w, "  strategy: gate %s, waves %s, bake %s, max_failed %s\n", p.Strategy.Gate, strings.Join(p.Strategy.Waves, " "), p.Strategy.Bake, p.Strategy.MaxFailed)
	fmt.Fprintf(w, "  hash: %s\n\n", p.ID)
	err := printTable(w, "REGION\tMACHINES\tABSENT\tHOLD IT\tPLACED", func(row func(...any)) {
		for _, r := range p.Regions {
			if r.Machines < 0 {
				row(r.Name, "no answer", "-", "-", r.Placed)
				continue
			}
			row(r.Name, r.Machines, r.Absent, r.Held, r.Placed)
		}
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printStages(w, p); err != nil {
		return err
	}
	if err := printChanges(w, p.Changes); err != nil {
		return err
	}
	for _, wait := range p.WaitsFor {
		if _, err := fmt.Fprintf(w, "waits for: %s\n", wait.Text); err != nil {
			return err
		}
	}
	return nil
}

func printStages(w io.Writer, p *starling.Plan) error {
	words := map[string]string{"app": "the app's last %d", "all": "the last %d of all apps", "spec": "the spec", "none": "nothing to judge by"}
	return printTable(w, "STAGE\tABOUT\tFROM", func(row func(...any)) {
		for _, s := range p.Stages {
			from := words[s.Basis]
			if strings.Contains(from, "%d") {
				from = fmt.Sprintf(from, s.Of)
			}
			row(s.Stage, ms(s.MS), from)
		}
		row("total", ms(p.TotalMS), "")
	})
}

// shownChange is how many bytes of one side of a changed field are shown.
const shownChange = 200

// printChanges shows fields of a spec that differ.
func printChanges(w io.Writer, changes []starling.FieldChange) error {
	side := func(s string) string {
		switch {
		case s == "":
			return "(not set)"
		case len(s) > shownChange:
			return strings.ToValidUTF8(s[:shownChange], "") + "…"
		}
		return s
	}
	for _, c := range changes {
		if _, err := fmt.Fprintf(w, "  %s: %s → %s\n", c.Field, side(c.Old), side(c.New)); err != nil {
			return err
		}
	}
	return nil
}

func approveCommand() *cobra.Command {
	var hash string
	c := apiCommand("approve ID", "Let a deployment that awaits approval roll out; on a terminal, shows its plan and asks", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			plan, err := starling.ParseDigest(hash)
			if err != nil {
				return &exitError{exitUsage, "--plan: " + err.Error()}
			}
			if plan.IsZero() && isTerminal(os.Stdin) && isTerminal(os.Stderr) {
				p, err := c.DeploymentPlan(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := confirmPlan(cmd.ErrOrStderr(), cmd.InOrStdin(), p); err != nil {
					return err
				}
				plan = p.ID
			}
			d, err := c.Approve(cmd.Context(), args[0], plan)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", d.ID, d.Phase)
			return err
		})
	c.Flags().StringVar(&hash, "plan", "", "hash of the plan that you have seen; refused if the plan is another by now")
	return c
}

// confirmPlan shows a plan and asks; an error if the answer is no.
func confirmPlan(w io.Writer, in io.Reader, p *starling.Plan) error {
	if err := printPlan(w, p); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nlet %s roll out? [y/N] ", p.Deployment)
	line, err := bufio.NewReader(io.LimitReader(in, 80)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if line = strings.ToLower(strings.TrimSpace(line)); line != "y" && line != "yes" {
		return &exitError{exitCancelled, "not approved"}
	}
	return nil
}
