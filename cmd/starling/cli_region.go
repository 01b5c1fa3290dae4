package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func regionCommand() *cobra.Command {
	return group("region", "Regions",
		apiCommand("list", "List regions as this server sees them", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				regions, err := c.Regions(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(cmd, regions, "REGION\tHERE\tLEADER\tSERVERS\tCACHES\tWORKERS\tMACHINES\tSEEN\tAPPS TAKEN BY", func(row func(...any)) {
					for i := range regions {
						r, machines := &regions[i], "?"
						if r.Machines >= 0 {
							machines = fmt.Sprint(r.Machines)
						}
						row(r.Name, r.Local, r.Leader, len(r.Servers), r.Caches, r.Workers, machines, r.Seen, takenText(r))
					}
				})
			}),
		apiCommand("show REGION", "Show a region: its apps, who took them over, and, asked of its own servers, what nobody else had seen", exactArgs(1), showRegion),
		takeoverCommand())
}

// takenText says who took over a region's apps and how that stands.
func takenText(r *starling.RegionStatus) string {
	t := r.Takeover
	switch {
	case t == nil || t.From == t.To:
		return ""
	case t.Stage == starling.TakeoverBegun:
		return fmt.Sprintf("%s (epoch %d, moving)", t.To, t.Epoch)
	case r.Lost:
		return fmt.Sprintf("%s (epoch %d, lost)", t.To, t.Epoch)
	}
	return fmt.Sprintf("%s (epoch %d, returned)", t.To, t.Epoch)
}

func showRegion(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
	r, err := c.Region(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if a.json {
		return printJSON(out, r)
	}
	fmt.Fprintf(out, "region %s: %d servers, seen %v\napps homed there: %s\n", r.Name, len(r.Servers), r.Seen || r.Local, strings.Join(r.Apps, ", "))
	if t := r.Takeover; t != nil {
		how := "ordered by " + t.Actor
		if len(t.Votes) > 0 {
			how = "with the votes of " + strings.Join(t.Votes, ", ")
		}
		fmt.Fprintf(out, "taken over by %s at epoch %d, %s; %s on %s\n", t.To, t.Epoch, how, t.Stage, t.At.Format(time.RFC3339))
	}
	if len(r.Unseen) == 0 {
		return nil
	}
	fmt.Fprintln(out, "what nobody else had seen when its apps were taken over:")
	return printTable(out, "EPOCH\tKIND\tAPP\tID\tWHAT BECAME OF IT", func(row func(...any)) {
		for _, u := range r.Unseen {
			row(u.Epoch, u.Kind, u.App, u.ID, u.Detail)
		}
	})
}

func takeoverCommand() *cobra.Command {
	var force bool
	cmd := apiCommand("takeover REGION", "Make this server's region the home of a lost region's apps", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			t, err := c.TakeOver(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), t)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "region %s is the home of what was %s's, at epoch %d (%s)\n", t.To, t.From, t.Epoch, t.Stage)
			return err
		})
	cmd.Flags().BoolVar(&force, "force", false, "even if the region is still heard, or another has seen more of it")
	return cmd
}
