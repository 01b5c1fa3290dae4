package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func aclCommand() *cobra.Command {
	return group("acl", "Who may do what",
		apiCommand("bootstrap", "Make the first operator token, once per cluster", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				t, err := c.BootstrapToken(cmd.Context())
				return showToken(cmd, a, t, err)
			}),
		group("token", "Bearer tokens", tokenCreateCommand(),
			apiCommand("list", "List tokens, without their secrets", exactArgs(0),
				func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
					tokens, err := c.Tokens(cmd.Context())
					if err != nil {
						return err
					}
					return a.show(cmd, tokens, "ID\tNAME\tROLE\tREGION\tEXPIRES\tREVOKED", func(row func(...any)) {
						for _, t := range tokens {
							expires := "never"
							if !t.ExpiresAt.IsZero() {
								expires = t.ExpiresAt.Format(time.RFC3339)
							}
							row(t.ID, t.Name, t.Role, t.Region, expires, t.Revoked)
						}
					})
				}),
			apiCommand("revoke ID", "End a token at once", exactArgs(1),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
					return c.RevokeToken(cmd.Context(), args[0])
				})))
}

func tokenCreateCommand() *cobra.Command {
	var t starling.NewToken
	var role string
	var ttl time.Duration
	c := apiCommand("create", "Make a token; its secret is printed once", exactArgs(0),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
			t.Role, t.TTL = starling.ACLRole(role), starling.Duration(ttl)
			if !t.Role.Valid() {
				return starling.Invalidf("--role", "%q: use viewer, deployer, approver or operator", role)
			}
			issued, err := c.CreateToken(cmd.Context(), t)
			return showToken(cmd, a, issued, err)
		})
	f := c.Flags()
	f.StringVar(&role, "role", "", "viewer, deployer, approver or operator")
	f.StringVar(&t.Name, "name", "", "whom it is for; stands in the history of every change made with it")
	f.DurationVar(&ttl, "ttl", 0, "how long it is valid (default: until revoked)")
	return c
}

func showToken(cmd *cobra.Command, a *apiFlags, t *starling.IssuedToken, err error) error {
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(cmd.OutOrStdout(), t)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "token %s (%s, %s)\nsecret, shown only now: %s\n", t.ID, t.Name, t.Role, t.Secret)
	return err
}
