package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func appCommand() *cobra.Command {
	return group("app", "What is deployed", appApplyCommand(), appReleasesCommand(),
		apiCommand("list", "List apps", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				apps, err := c.Apps(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(cmd, apps, "APP\tHOME\tREVISION\tTARGETS", func(row func(...any)) {
					for _, app := range apps {
						row(app.Name, app.Home, app.Revision, app.Deploy.Targets)
					}
				})
			}),
		apiCommand("show APP", "Show an app's spec and its releases", exactArgs(1),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
				app, err := c.App(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if a.json {
					return printJSON(cmd.OutOrStdout(), app)
				}
				releases, err := c.Releases(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if err := printJSON(cmd.OutOrStdout(), app); err != nil {
					return err
				}
				return printTable(cmd.OutOrStdout(), "RELEASE\tARTIFACT\tSHA\tDEPLOYMENT\tSINCE", func(row func(...any)) {
					for _, r := range releases {
						row(r.Generation.Sequence, r.Artifact.Short(), shortSHA(r.SHA), r.Deployment, r.At.Format("2006-01-02 15:04:05"))
					}
				})
			}))
}

func shortSHA(sha string) string { return sha[:min(12, len(sha))] }

func appApplyCommand() *cobra.Command {
	var revision uint64
	var force bool
	var c *cobra.Command
	c = apiCommand("apply FILE.hcl", "Create or change the apps of a file (- for standard input)", exactArgs(1),
		func(cmd *cobra.Command, api *client.Client, a *apiFlags, args []string) error {
			src, err := readInput(cmd.InOrStdin(), args[0])
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			apps, err := parseAppFile(args[0], src)
			if err != nil {
				return usageError{err}
			}
			given := c.Flags().Changed("check-revision")
			if given && force {
				return &exitError{exitUsage, "--force and --check-revision contradict each other"}
			}
			for _, app := range apps {
				condition := &revision
				var changes []starling.FieldChange
				if !given {
					if condition, changes, err = readRevision(cmd.Context(), api, &app); err != nil {
						return fmt.Errorf("app %s: %w", app.Name, err)
					}
				}
				if force {
					condition = nil
				}
				applied, err := api.ApplyApp(cmd.Context(), app, condition)
				if err != nil {
					return fmt.Errorf("app %s: %w", app.Name, err)
				}
				if err := printApplied(cmd.OutOrStdout(), a, applied, changes); err != nil {
					return err
				}
			}
			return nil
		})
	c.Flags().Uint64Var(&revision, "check-revision", 0, "only if the app is at this revision, as plan and show print it (0: does not exist yet)")
	c.Flags().BoolVar(&force, "force", false, "even if somebody else changes the app at the same moment")
	return c
}

// readRevision reads the app that is about to be changed: its revision is the condition of
// the change, so that what somebody else changes meanwhile is not undone.
func readRevision(ctx context.Context, api *client.Client, app *starling.App) (*uint64, []starling.FieldChange, error) {
	now, err := api.App(ctx, app.Name)
	if errors.Is(err, starling.ErrNotFound) {
		return new(uint64), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return &now.Revision, starling.DiffSpecs(now, app), nil
}

func printApplied(w io.Writer, a *apiFlags, app *starling.App, changes []starling.FieldChange) error {
	if a.json {
		return printJSON(w, app)
	}
	if _, err := fmt.Fprintf(w, "app %s: revision %d, home %s\n", app.Name, app.Revision, app.Home); err != nil {
		return err
	}
	return printChanges(w, changes)
}

func readInput(stdin io.Reader, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(path)
}

func appReleasesCommand() *cobra.Command {
	return apiCommand("releases APP", "List an app's releases, how many machines still hold each, and how long a rollback would take", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			all, err := c.Readiness(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(cmd, all, "RELEASE\tARTIFACT\tSHA\tSINCE\tHELD BY\tSHARE\tBY REGION\tROLLBACK", func(row func(...any)) {
				for i := range all {
					r := &all[i]
					name := fmt.Sprint(r.Generation.Sequence)
					if r.Readiness == nil { // an older server
						row(name, r.Artifact.Short(), shortSHA(r.SHA), r.At.Local().Format(time.DateTime), "-", "-", "-", "-")
						continue
					}
					back := "about " + ms(r.Readiness.RollbackMS)
					switch {
					case r.Readiness.Current:
						name, back = name+" *", "runs"
					case r.Readiness.RollbackMS == 0:
						back = "-"
					}
					row(name, r.Artifact.Short(), shortSHA(r.SHA), r.At.Local().Format(time.DateTime),
						fmt.Sprintf("%d/%d", r.Readiness.Held, r.Readiness.Machines), percent(int64(r.Readiness.Held), int64(r.Readiness.Machines)), byRegion(r.Readiness), back)
				}
			})
		})
}

func byRegion(r *starling.Readiness) string {
	var parts []string
	for _, h := range r.Regions {
		if h.Machines < 0 {
			parts = append(parts, h.Name+" no answer")
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %d/%d", h.Name, h.Held, h.Machines))
	}
	return strings.Join(parts, ", ")
}
