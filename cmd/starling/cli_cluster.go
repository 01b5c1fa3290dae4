package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func serverCommand() *cobra.Command {
	return group("server", "The servers of a region",
		membersCommand(),
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

// membersCommand lists the servers alone: machines may be many.
func membersCommand() *cobra.Command {
	return apiCommand("members", "List the servers", exactArgs(0), func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
		nodes, err := c.FindNodes(cmd.Context(), starling.NodeFilter{Role: starling.RoleServer})
		if err != nil {
			return err
		}
		// One of the version before knows no filters.
		return showNodes(cmd, a, slices.DeleteFunc(nodes, func(n starling.NodeStatus) bool { return !n.Has(starling.RoleServer) }))
	})
}
