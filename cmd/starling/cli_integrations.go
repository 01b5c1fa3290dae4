package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// envSecret gives a secret to create commands: a flag would show in process lists.
const envSecret = "STARLING_SECRET"

func webhookCommand() *cobra.Command {
	var n starling.NewWebhook
	var kind string
	create := apiCommand("create NAME", "Let pushes to repositories deploy apps; the secret is printed once", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			n.Name, n.Kind, n.Secret = args[0], starling.WebhookKind(kind), os.Getenv(envSecret)
			w, err := c.CreateWebhook(cmd.Context(), n)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), w)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "webhook %s (%s)\nsend pushes, as application/json, to any server: %s%s\nsecret, shown only now: %s\n",
				w.Name, w.Kind, strings.TrimSuffix(cmp.Or(a.cfg.Addr, client.DefaultAddr), "/"), w.Path, w.Secret)
			return err
		})
	create.Flags().StringVar(&kind, "kind", "github", "github, gitlab or generic")
	create.Flags().StringSliceVar(&n.Apps, "app", nil, "an app that it may deploy (again for more; default: all, of every region)")
	create.Long = "Lets pushes deploy the apps whose source.git and source.branch are what was pushed to. With " + envSecret +
		" in the environment, such as a signing token that GitLab has made, that is the secret."
	return group("webhook", "Pushes to repositories that deploy", create,
		apiCommand("list", "List webhooks, without their secrets", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				hooks, err := c.Webhooks(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(cmd, hooks, "WEBHOOK\tKIND\tAPPS\tPATH\tSINCE", func(row func(...any)) {
					for _, w := range hooks {
						row(w.Name, w.Kind, orAll(w.Apps), "/v1/hooks/"+w.Name, w.CreatedAt.Format(time.DateTime))
					}
				})
			}),
		apiCommand("delete NAME", "Forget a webhook", exactArgs(1),
			func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
				return c.DeleteWebhook(cmd.Context(), args[0])
			}))
}

func notifyCommand() *cobra.Command {
	var n starling.NewSink
	var kind string
	create := apiCommand("create NAME", "Tell somebody of the region's deployments from now on", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			n.Name, n.Kind, n.Secret = args[0], starling.SinkKind(kind), os.Getenv(envSecret)
			k, err := c.CreateSink(cmd.Context(), n)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), k)
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is told at %s of: %s\n", k.Name, k.To, noticeNames(k.Notices)); err != nil || k.Secret == "" {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "what signs it, shown only now: %s\n", k.Secret)
			return err
		})
	f := create.Flags()
	f.StringVar(&kind, "kind", "webhook", "webhook, slack, github or gitlab")
	f.StringVar(&n.URL, "url", "", "where to; default for github and gitlab: the statuses of the commit at github.com or gitlab.com")
	f.StringVar(&n.Template, "template", "", "JSON to post to github or gitlab; default: a commit status")
	f.StringSliceVar(&n.Notices, "on", nil, "what to tell: submitted, building, …, awaiting_approval, succeeded, failed, reverted, cancelled (default: a fitting choice)")
	f.StringSliceVar(&n.Apps, "app", nil, "an app to tell of (again for more; default: all that are homed in the region)")
	create.Long = "Tells a webhook, Slack, GitHub or GitLab what becomes of deployments. A token of GitHub or GitLab is taken from " + envSecret +
		" in the environment; what signs a webhook is made and printed, or taken from there too."
	return group("notify", "Who is told of deployments", create,
		apiCommand("list", "Show who is told, and how far they have been told", exactArgs(0), listSinks),
		apiCommand("test NAME", "Send somebody one message now, and say what became of it", exactArgs(1), trySink),
		apiCommand("delete NAME", "Tell somebody no more", exactArgs(1),
			func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
				return c.DeleteSink(cmd.Context(), args[0])
			}))
}

func trySink(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
	trial, err := c.TrySink(cmd.Context(), args[0])
	if err != nil {
		return err
	}
	if a.json {
		err = printJSON(cmd.OutOrStdout(), trial)
	} else if trial.Error == "" {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s took it: %s\n", args[0], trial.Text)
	}
	if err == nil && trial.Error != "" {
		return &exitError{exitFailed, args[0] + " did not take it: " + trial.Error}
	}
	return err
}

func listSinks(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
	sinks, err := c.Sinks(cmd.Context())
	if err != nil {
		return err
	}
	return a.show(cmd, sinks, "SINK\tKIND\tTO\tAPPS\tDELIVERED\tPENDING\tDROPPED\tLAST SUCCESS\tTROUBLE", func(row func(...any)) {
		for _, k := range sinks {
			last, trouble := "never", "none"
			if !k.LastSuccess.IsZero() {
				last = k.LastSuccess.Format(time.DateTime)
			}
			switch {
			case k.Unsealed != "":
				trouble = k.Unsealed
			case k.Attempt > 0:
				trouble = fmt.Sprintf("%d tries, next at %s: %s", k.Attempt, k.NextTry.Format(time.TimeOnly), k.LastError)
			case k.LastError != "":
				trouble = fmt.Sprintf("at %s: %s", k.LastErrorAt.Format(time.DateTime), k.LastError)
			}
			row(k.Name, k.Kind, k.To, orAll(k.Apps), k.Delivered, k.Pending, k.Dropped, last, trouble)
		}
	})
}

func orAll(apps []string) string {
	if len(apps) == 0 {
		return "all"
	}
	return strings.Join(apps, ",")
}

func noticeNames(notices []starling.Notice) string {
	var names []string
	for _, n := range notices {
		names = append(names, string(n))
	}
	return strings.Join(names, ", ")
}
