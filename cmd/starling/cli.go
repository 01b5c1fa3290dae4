package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling/client"
)

// apiFlags are the flags of every command that calls the HTTP API; the environment
// gives their defaults.
type apiFlags struct {
	cfg  client.Config
	json bool
}

func (a *apiFlags) register(c *cobra.Command) *cobra.Command {
	env := client.FromEnv()
	c.Flags().StringVar(&a.cfg.Addr, "addr", env.Addr, "server, e.g. https://starling.example:7470; of several, separated by commas, the next one if one is gone (STARLING_ADDR)")
	c.Flags().StringVar(&a.cfg.CACert, "ca-cert", env.CACert, "authority of the server's certificate (STARLING_CACERT)")
	c.Flags().BoolVar(&a.json, "json", false, "print JSON")
	a.cfg.Token = env.Token // from the environment only: a flag would show in process lists
	return c
}

func (a *apiFlags) client() (*client.Client, error) {
	c, err := client.New(a.cfg)
	if err != nil {
		return nil, &exitError{exitUsage, err.Error()}
	}
	return c, nil
}

// apiCommand is a command whose work is one function of the client.
func apiCommand(use, short string, args cobra.PositionalArgs, run func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error) *cobra.Command {
	var a apiFlags
	return a.register(&cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return run(cmd, c, &a, args)
		},
	})
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// show prints v as JSON if asked, else as a table that fill writes.
func (a *apiFlags) show(cmd *cobra.Command, v any, header string, fill func(row func(cells ...any))) error {
	if a.json {
		return printJSON(cmd.OutOrStdout(), v)
	}
	return printTable(cmd.OutOrStdout(), header, fill)
}

// printTable prints tab-separated cells as aligned columns.
func printTable(w io.Writer, header string, fill func(row func(cells ...any))) error {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, header)
	fill(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, c)
		}
		fmt.Fprintln(tw)
	})
	return tw.Flush()
}

// isTerminal reports whether f is a terminal, where progress bars make sense.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// humanBytes writes n bytes for people, e.g. 33.6 MB.
func humanBytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 1000 && i < 3 {
		v, i = v/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", v, "kMGT"[i])
}
