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

func regionCommand() *cobra.Command {
	return group("region", "Regions",
		apiCommand("list", "List regions as this server sees them", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				regions, err := c.Regions(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(cmd, regions, "REGION\tHERE\tLEADER\tSERVERS\tCACHES\tWORKERS\tMACHINES\tSEEN", func(row func(...any)) {
					for _, r := range regions {
						machines := "?"
						if r.Machines >= 0 {
							machines = fmt.Sprint(r.Machines)
						}
						row(r.Name, r.Local, r.Leader, len(r.Servers), r.Caches, r.Workers, machines, r.Seen)
					}
				})
			}))
}

func operatorCommand() *cobra.Command {
	generate := &cobra.Command{
		Use: "generate", Short: "Print a new gossip key", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), newGossipKey())
			return err
		},
	}
	return group("operator", "Raft and gossip, for operators",
		group("raft", "The Raft configuration",
			apiCommand("list-peers", "List the servers of the Raft configuration", exactArgs(0),
				func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
					peers, err := c.RaftPeers(cmd.Context())
					if err != nil {
						return err
					}
					return a.show(cmd, peers, "NAME\tADDRESS\tVOTER\tLEADER", func(row func(...any)) {
						for _, p := range peers {
							row(p.Name, p.Addr, p.Voter, p.Leader)
						}
					})
				}),
			apiCommand("remove-peer NAME", "Take a server out of the configuration", exactArgs(1),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
					return c.RemovePeer(cmd.Context(), args[0])
				}),
			apiCommand("transfer-leadership", "Make another server lead", exactArgs(0),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, _ []string) error {
					return c.TransferLeadership(cmd.Context())
				})),
		group("gossip", "The gossip's encryption", group("keyring", "Its keys", generate)))
}
