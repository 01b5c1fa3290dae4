package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// pollEvery is how often a waiting command asks for the state.
const pollEvery = 250 * time.Millisecond

func deployCommand() *cobra.Command {
	var sub starling.Submission
	var artifact string
	var detach bool
	c := apiCommand("deploy APP", "Deploy a commit or an artifact and wait for the end", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			sub.App = args[0]
			var err error
			if sub.Artifact, err = starling.ParseDigest(artifact); err != nil {
				return usageError{fmt.Errorf("--artifact: %w", err)}
			}
			if sub.SHA == "" && sub.Artifact.IsZero() {
				if sub.SHA, err = headSHA(cmd.Context()); err != nil {
					return usageError{err}
				}
			}
			if sub.IdempotencyKey == "" {
				sub.IdempotencyKey = rand.Text() // so that our own retries never deploy twice
			}
			after := eventsUntilNow(cmd.Context(), c)
			d, err := submitWithRetry(cmd.Context(), func(ctx context.Context) (*starling.Deployment, error) { return c.Submit(ctx, sub) })
			if err != nil {
				return err
			}
			return follow(cmd, c, a, d, after, detach)
		})
	f := c.Flags()
	f.StringVar(&sub.SHA, "sha", "", "commit to build (default: HEAD of the repository in this folder)")
	f.StringVar(&artifact, "artifact", "", "digest of an artifact to deploy as it is")
	f.IntVar(&sub.Priority, "priority", 0, "0 to 100; higher goes first")
	f.StringVar(&sub.IdempotencyKey, "idempotency-key", "", "makes a retry of this command safe")
	f.BoolVar(&sub.IgnoreFreeze, "ignore-freeze", false, "a hotfix: roll out in spite of freeze windows; the record says by whom")
	f.BoolVar(&detach, "detach", false, "do not wait for the end")
	return c
}

func rollbackCommand() *cobra.Command {
	var to uint64
	var detach bool
	c := apiCommand("rollback APP", "Bring back an earlier release", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			key := rand.Text()
			after := eventsUntilNow(cmd.Context(), c)
			d, err := submitWithRetry(cmd.Context(), func(ctx context.Context) (*starling.Deployment, error) {
				return c.Rollback(ctx, args[0], to, key)
			})
			if err != nil {
				return err
			}
			return follow(cmd, c, a, d, after, detach)
		})
	c.Flags().Uint64Var(&to, "to", 0, "release number, as starling app show lists them (default: the one before the current)")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	return c
}

// submitWithRetry tries for half a minute while no server answers; the idempotency
// key in the request makes that safe.
func submitWithRetry(ctx context.Context, submit func(context.Context) (*starling.Deployment, error)) (*starling.Deployment, error) {
	give, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		d, err := submit(ctx)
		if err == nil || !errors.Is(err, starling.ErrUnavailable) {
			return d, err
		}
		select {
		case <-give.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// eventsUntilNow returns an event's id such that all that happens from now on comes after it;
// "" if the server does not tell.
func eventsUntilNow(ctx context.Context, c *client.Client) string {
	l, err := c.Leader(ctx)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d.%d@%s", l.Index, math.MaxInt32, l.Region)
}

func headSHA(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--verify", "HEAD").Output()
	if err != nil {
		return "", errors.New("name a commit with --sha or an artifact with --artifact: this folder is no git repository")
	}
	return strings.TrimSpace(string(out)), nil
}

// follow shows a deployment, of which events come after an id, until it has ended and turns its end into an exit code.
func follow(cmd *cobra.Command, c *client.Client, a *apiFlags, d *starling.Deployment, after string, detach bool) error {
	if detach {
		if a.json {
			return printJSON(cmd.OutOrStdout(), d)
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), d.ID)
		return err
	}
	f := &follower{client: c, id: d.ID, after: after, story: newStory(d), screen: &lineScreen{cmd.ErrOrStderr()}}
	if isTerminal(os.Stderr) && !a.json {
		f.screen = newLiveScreen(os.Stderr)
	}
	end, err := f.run(cmd.Context(), d)
	f.screen.close()
	if err != nil {
		return err
	}
	if a.json {
		if err := printJSON(cmd.OutOrStdout(), end); err != nil {
			return err
		}
	} else if err := printSummary(cmd.OutOrStdout(), end); err != nil {
		return err
	}
	switch end.Phase {
	case starling.PhaseSucceeded:
		return nil
	case starling.PhaseCancelled:
		return &exitError{exitCancelled, ""}
	default:
		return &exitError{exitFailed, ""}
	}
}

func printSummary(w io.Writer, d *starling.Deployment) error {
	_, err := fmt.Fprintf(w, "%s %s in %s: queued %s, build %s, replicate %s, stage %s, roll-out %s\n"+
		"  machines: %d of %d healthy, %d failed; bytes: artifact %s, new %s, between regions %s, from caches %s, between machines %s, reused on disk %s\n",
		d.ID, d.Phase, ms(d.Timings.TotalMS), ms(d.Timings.QueuedMS), ms(d.Timings.BuildMS), ms(d.Timings.ReplicateMS), ms(d.Timings.StageMS), ms(d.Timings.RolloutMS),
		d.Machines.Healthy, d.Machines.Target, d.Machines.Failed, humanBytes(d.Bytes.Artifact), humanBytes(d.Bytes.New),
		humanBytes(d.Bytes.WAN), humanBytes(d.Bytes.CacheOut), humanBytes(d.Bytes.Peer), humanBytes(d.Bytes.Local))
	if err == nil {
		err = printHooks(w, d)
	}
	if err == nil && d.Reason != "" {
		_, err = fmt.Fprintln(w, "  reason: "+d.Reason)
	}
	if err == nil && d.Fence != nil {
		_, err = fmt.Fprintln(w, "  "+fenceText(d.Fence))
	}
	if err == nil && !d.RevertedTo.IsZero() {
		_, err = fmt.Fprintln(w, "  reverted to the release before: "+d.RevertedTo.Short())
	}
	return err
}

// fenceText says what can no longer move a deployment that has ended badly.
func fenceText(f *starling.Fence) string {
	s := fmt.Sprintf("fenced at log index %d", f.Index)
	if f.Lease != 0 {
		s += fmt.Sprintf("; the worker's lease %d is void", f.Lease)
	}
	if !f.Goal.IsZero() {
		s += fmt.Sprintf("; the goal went from generation %s to %s", f.Generation, f.Goal)
	}
	return s
}

func ms(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

func statusCommand() *cobra.Command {
	var app string
	var all, timeline bool
	c := apiCommand("status [ID]", "Show one deployment, or those under way", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			if len(args) == 1 {
				d, err := c.Deployment(cmd.Context(), args[0])
				if errors.Is(err, starling.ErrUnavailable) {
					known, serr := c.Stale().Deployment(cmd.Context(), args[0])
					if serr != nil {
						return err
					}
					fmt.Fprintf(cmd.ErrOrStderr(), "as this server last knew it: %v\n", err)
					d, err = known, nil
				}
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(cmd.OutOrStdout(), d)
				}
				if err := printSummary(cmd.OutOrStdout(), d); err != nil || !timeline {
					return err
				}
				return printTimeline(cmd.OutOrStdout(), d, time.Now())
			}
			ds, err := c.Deployments(cmd.Context(), starling.DeploymentFilter{App: app, Active: !all, Limit: 50})
			if err != nil {
				return err
			}
			return a.show(cmd, ds, "ID\tAPP\tPHASE\tSHA\tRELEASE\tHEALTHY\tBY\tSINCE", func(row func(...any)) {
				for _, d := range ds {
					row(d.ID, d.App, d.Phase, shortSHA(d.SHA), d.Generation.Sequence,
						strconv.Itoa(d.Machines.Healthy)+"/"+strconv.Itoa(d.Machines.Target), d.Actor, d.CreatedAt.Local().Format("15:04:05"))
				}
			})
		})
	c.Flags().StringVar(&app, "app", "", "only this app's")
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	c.Flags().BoolVar(&timeline, "timeline", false, "of the deployment: bars of what happened when")
	return c
}

func actionCommand(action starling.Action, short string) *cobra.Command {
	var o starling.ActionOptions
	c := apiCommand(string(action)+" ID", short, exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			d, err := c.ActWith(cmd.Context(), args[0], action, o)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), d)
			}
			return printActed(cmd.OutOrStdout(), d)
		})
	f := c.Flags()
	switch action {
	case starling.ActionPromote:
		f.BoolVar(&o.All, "all", false, "all machines of all regions at once")
		fallthrough
	case starling.ActionResume:
		f.BoolVar(&o.IgnoreFreeze, "ignore-freeze", false, "let it go on in spite of freeze windows; the record says by whom")
	case starling.ActionCancel, starling.ActionAbort:
		f.StringVar(&o.Reason, "reason", "", "why, for the record")
	}
	return c
}

// printActed says where a deployment stands after an action, and what can no longer move it.
func printActed(w io.Writer, d *starling.Deployment) error {
	text := fmt.Sprintf("%s is %s\n", d.ID, d.Phase)
	switch {
	case d.Paused:
		text = fmt.Sprintf("%s is %s, paused\n", d.ID, d.Phase)
	case d.Phase == starling.PhaseRollingOut:
		text = fmt.Sprintf("%s is %s, %s: %s\n", d.ID, d.Phase, d.StepText(), d.Step().Share)
	}
	if d.Fence != nil {
		text += "  " + fenceText(d.Fence) + "\n"
	}
	if d.Hold != nil {
		text += "  " + holdText(d.Hold) + "\n"
	}
	if d.IgnoreFreeze != nil {
		text += "  freezes are ignored: " + d.IgnoreFreeze.By + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// holdText says where a paused deployment stands still.
func holdText(h *starling.Hold) string {
	s := fmt.Sprintf("held at log index %d", h.Index)
	if !h.Generation.IsZero() {
		s += fmt.Sprintf(": goal %s stays at revision %d", h.Generation, h.Revision)
	}
	return s
}
