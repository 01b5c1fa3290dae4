package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

const nodeColumns = "NAME\tREGION\tZONE\tRACK\tROLES\tADDRESS\tALIVE\tCELL\tSTANDING\tRUNS\tPROBLEM"

func nodeCommand() *cobra.Command {
	return group("node", "The members of a region and its machines",
		nodeListCommand(), nodeStatusCommand(),
		standingCommand("drain", "Make a machine no goal's target; what it runs goes on", (*client.Client).DrainNode),
		nodeRevokeCommand(),
		nodeRemoveCommand(),
		group("token", "Tokens with which machines enrol", joinTokenCreateCommand(),
			apiCommand("list", "List join tokens, without their secrets", exactArgs(0), listJoinTokens),
			apiCommand("revoke ID", "End a join token at once; machines that came with it stay", exactArgs(1),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
					return c.RevokeJoinToken(cmd.Context(), args[0])
				})))
}

func nodeListCommand() *cobra.Command {
	var f starling.NodeFilter
	var role string
	c := apiCommand("list", "List the members of a region and its machines", exactArgs(0),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
			f.Role = starling.Role(role)
			nodes, err := c.FindNodes(cmd.Context(), f)
			if err != nil {
				return err
			}
			return showNodes(cmd, a, nodes)
		})
	flags := c.Flags()
	flags.StringVar(&f.Cell, "cell", "", "machines of this cell only")
	flags.StringVar(&f.Zone, "zone", "", "of this zone only")
	flags.StringVar(&f.State, "state", "", "alive, dead, active, draining or revoked")
	flags.StringVar(&role, "role", "", "server, cache, worker or machine")
	return c
}

func showNodes(cmd *cobra.Command, a *apiFlags, nodes []starling.NodeStatus) error {
	return a.show(cmd, nodes, nodeColumns, func(row func(...any)) {
		for _, n := range nodes {
			var roles, runs []string
			for _, r := range n.Roles {
				roles = append(roles, string(r))
			}
			for _, app := range slices.Sorted(maps.Keys(n.Running)) {
				runs = append(runs, app+"@"+n.Running[app].Short())
			}
			row(n.Name, n.Region, n.Zone, n.Rack, strings.Join(roles, ","), n.Addr, n.Alive, n.Cell, n.Standing, strings.Join(runs, " "), n.Problem)
		}
	})
}

func nodeStatusCommand() *cobra.Command {
	return apiCommand("status [NAME]", "Show a node, or list all with what they run", atMostOneArg,
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			if len(args) == 0 {
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				return showNodes(cmd, a, nodes)
			}
			d, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return showNode(cmd, a, d)
		})
}

func showNode(cmd *cobra.Command, a *apiFlags, d *starling.NodeDetail) error {
	if a.json {
		return printJSON(cmd.OutOrStdout(), d)
	}
	if err := showNodes(cmd, a, []starling.NodeStatus{d.NodeStatus}); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if m := d.Machine; m != nil {
		by := "a certificate made by hand"
		if m.Token != "" {
			by = "join token " + m.Token
		}
		if _, err := fmt.Fprintf(out, "\nenrolled %s with %s; gossips at %s; tags %s\n", m.EnrolledAt.Format(time.RFC3339), by, cmp.Or(m.Gossip, "?"), tagText(m.Tags)); err != nil {
			return err
		}
	}
	if d.Unasked != "" {
		if _, err := fmt.Fprintf(out, "its cell could not be asked: %s\n", d.Unasked); err != nil {
			return err
		}
	}
	if len(d.Reports) == 0 {
		return nil
	}
	return a.show(cmd, d.Reports, "APP\tGENERATION\tSTATE\tRUNNING\tCHUNKS\tREASON", func(row func(...any)) {
		for _, r := range d.Reports {
			row(r.App, r.Generation, r.State, r.Running.Short(), fmt.Sprintf("%d of %d", r.ChunksDone, r.ChunksTotal), r.Reason)
		}
	})
}

func tagText(tags map[string]string) string {
	parts := []string{}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return cmp.Or(strings.Join(parts, ","), "none")
}

// standingCommand is a change of what the region makes of a machine; --off takes it back.
func standingCommand(verb, short string, set func(*client.Client, context.Context, string, bool) (*starling.Machine, error)) *cobra.Command {
	var off bool
	c := apiCommand(verb+" NAME", short, exactArgs(1), func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
		m, err := set(c, cmd.Context(), args[0], off)
		if err != nil {
			return err
		}
		if a.json {
			return printJSON(cmd.OutOrStdout(), m)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "machine %s is %s\n", m.Name, m.Standing)
		return err
	})
	c.Flags().BoolVar(&off, "off", false, "take it back")
	return c
}

func nodeRevokeCommand() *cobra.Command {
	var unknown bool
	c := standingCommand("revoke", "Make a machine's certificates void",
		func(c *client.Client, ctx context.Context, name string, off bool) (*starling.Machine, error) {
			switch {
			case unknown && off:
				return nil, starling.Invalidf("--unknown", "goes without --off")
			case unknown:
				return c.RevokeUnknownNode(ctx, name)
			}
			return c.RevokeNode(ctx, name, off)
		})
	c.Flags().BoolVar(&unknown, "unknown", false, "also if no machine of that name is known: its certificate was made by hand, and it never registered")
	return c
}

func nodeRemoveCommand() *cobra.Command {
	var force bool
	c := apiCommand("remove NAME", "Forget a machine that is gone; one that still runs comes back", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
			return c.RemoveNode(cmd.Context(), args[0], force)
		})
	c.Flags().BoolVar(&force, "force", false, "even if it is revoked: its old certificates are good again until they expire")
	return c
}

func joinTokenCreateCommand() *cobra.Command {
	var n starling.NewJoinToken
	var ttl time.Duration
	var tags []string
	c := apiCommand("create", "Make a join token; it is printed once", exactArgs(0),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) (err error) {
			n.TTL = starling.Duration(ttl)
			if n.Tags, err = parseTags(tags); err != nil {
				return err
			}
			k, err := c.CreateJoinToken(cmd.Context(), n)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), k)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "join token %s, for %d machines until %s\nshown only now: %s\n",
				k.ID, k.MaxUses, k.ExpiresAt.Format(time.RFC3339), k.Text)
			return err
		})
	f := c.Flags()
	f.StringVar(&n.Name, "name", "", "what it is for")
	f.IntVar(&n.Uses, "uses", starling.DefaultJoinTokenUses, "how many machines may enrol with it")
	f.DurationVar(&ttl, "ttl", starling.DefaultJoinTokenTTL, "how long it is valid")
	f.StringVar(&n.Zone, "zone", "", "the zone that its machines must be in")
	f.StringArrayVar(&tags, "tag", nil, "KEY=VALUE: a tag that its machines get, and cannot change; may be given again")
	return c
}

// parseTags reads KEY=VALUE pairs.
func parseTags(pairs []string) (map[string]string, error) {
	var tags map[string]string
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" || v == "" {
			return nil, starling.Invalidf("--tag", "%q: want KEY=VALUE", p)
		}
		if have, twice := tags[k]; twice && have != v {
			return nil, starling.Invalidf("--tag", "%s is given as %s and as %s", k, have, v)
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[k] = v
	}
	return tags, nil
}

func listJoinTokens(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
	tokens, err := c.JoinTokens(cmd.Context())
	if err != nil {
		return err
	}
	return a.show(cmd, tokens, "ID\tNAME\tZONE\tTAGS\tUSES\tEXPIRES\tREVOKED", func(row func(...any)) {
		for _, k := range tokens {
			row(k.ID, k.Name, k.Zone, tagText(k.Tags), fmt.Sprintf("%d of %d", k.Uses, k.MaxUses), k.ExpiresAt.Format(time.RFC3339), k.Revoked)
		}
	})
}

func cellCommand() *cobra.Command {
	return group("cell", "The cells of a region's machines",
		apiCommand("list", "List the cells", exactArgs(0), func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
			cells, err := c.Cells(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(cmd, cells, "NAME\tZONE\tMACHINES\tALIVE\tRACKS\tKEY\tSPEAKERS\tHEARD", func(row func(...any)) {
				for _, cell := range cells {
					heard := "never"
					if cell.SilentMS >= 0 {
						heard = (time.Duration(cell.SilentMS) * time.Millisecond).String() + " ago"
					}
					row(cell.Name, cell.Zone, cell.Machines, cell.Alive, cell.Racks, cell.KeyEpoch, strings.Join(cell.Speakers, ","), heard)
				}
			})
		}))
}

func rotateCellCommand() *cobra.Command {
	var all bool
	c := apiCommand("rotate-cell [CELL]", "Give a cell another gossip key", atMostOneArg,
		func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
			if all == (len(args) == 1) {
				return starling.Invalidf("CELL", "name one cell, or say --all")
			}
			return c.RotateCells(cmd.Context(), append(args, "")[0], all)
		})
	c.Flags().BoolVar(&all, "all", false, "all cells of the region")
	return c
}
