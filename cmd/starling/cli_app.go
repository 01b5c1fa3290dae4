package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling/client"
)

func appCommand() *cobra.Command {
	return group("app", "What is deployed", appApplyCommand(),
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
	var c *cobra.Command
	c = apiCommand("apply FILE.hcl", "Create or change the apps of a file (- for standard input)", exactArgs(1),
		func(cmd *cobra.Command, api *client.Client, a *apiFlags, args []string) error {
			src, err := readInput(cmd.InOrStdin(), args[0])
			if err != nil {
				return usageError{err}
			}
			apps, err := parseAppFile(args[0], src)
			if err != nil {
				return usageError{err}
			}
			var ifRevision *uint64
			if c.Flags().Changed("if-revision") {
				ifRevision = &revision
			}
			for _, app := range apps {
				applied, err := api.ApplyApp(cmd.Context(), app, ifRevision)
				if err != nil {
					return fmt.Errorf("app %s: %w", app.Name, err)
				}
				if a.json {
					err = printJSON(cmd.OutOrStdout(), applied)
				} else {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "app %s: revision %d, home %s\n", applied.Name, applied.Revision, applied.Home)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	c.Flags().Uint64Var(&revision, "if-revision", 0, "only if the app is at this revision (0: does not exist yet)")
	return c
}

func readInput(stdin io.Reader, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(path)
}
