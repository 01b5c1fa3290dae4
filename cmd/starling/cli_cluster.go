package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func serverCommand() *cobra.Command {
	return group("server", "The servers of a region",
		nodesCommand("members", "List the servers", func(n *starling.Node) bool { return n.Has(starling.RoleServer) }),
		apiCommand("join ADDR…", "Make the server join others, by gossip address", cobra.MinimumNArgs(1),
			func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
				n, err := c.JoinServers(cmd.Context(), args)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "joined by %d of %d\n", n, len(args))
				return err
			}),
		apiCommand("force-leave NAME", "Mark a failed member as gone for good", exactArgs(1),
			func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
				return c.ForceLeave(cmd.Context(), args[0])
			}),
		apiCommand("leave", "Take the very server that --addr names out of its region for good, and stop it", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, _ *apiFlags, _ []string) error {
				return c.LeaveServer(cmd.Context())
			}))
}

func nodeCommand() *cobra.Command {
	return group("node", "The members of a region",
		nodesCommand("status", "List members with what they run", func(*starling.Node) bool { return true }))
}

func nodesCommand(use, short string, keep func(*starling.Node) bool) *cobra.Command {
	return apiCommand(use, short, exactArgs(0), func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
		nodes, err := c.Nodes(cmd.Context())
		if err != nil {
			return err
		}
		nodes = slices.DeleteFunc(nodes, func(n starling.NodeStatus) bool { return !keep(&n.Node) })
		return a.show(cmd, nodes, "NAME\tREGION\tZONE\tRACK\tROLES\tADDRESS\tALIVE\tRUNS\tPROBLEM", func(row func(...any)) {
			for _, n := range nodes {
				var roles, runs []string
				for _, r := range n.Roles {
					roles = append(roles, string(r))
				}
				for _, app := range slices.Sorted(maps.Keys(n.Running)) {
					runs = append(runs, app+"@"+n.Running[app].Short())
				}
				row(n.Name, n.Region, n.Zone, n.Rack, strings.Join(roles, ","), n.Addr, n.Alive, strings.Join(runs, " "), n.Problem)
			}
		})
	})
}
