package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling/chaos"
	"github.com/starlingdeploy/starling/faults"
	"github.com/starlingdeploy/starling/lab"
)

// newChaos prints its result before it fails for what the result says.
func newChaos(s *settings) *cobra.Command {
	c := chaos.Config{}
	kinds := ""
	cmd := &cobra.Command{
		Use: "chaos", Short: "Deployments while processes, disks, links and clocks fail", Args: cobra.NoArgs,
		Long: `Runs regions of real processes in network namespaces, harms one after the other when
deployments enter their phases, and compares in the end what was acknowledged with what
every server holds. Fails if anything was lost, duplicated or left open. Needs root.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Kinds, err = chaos.ParseKinds(kinds); err != nil {
				return err
			}
			c.Seed = s.seed
			if c.Bin, err = filepath.Abs(s.bin); err != nil {
				return err
			}
			if c.Self, err = os.Executable(); err != nil {
				return err
			}
			if c.Dir, err = filepath.Abs(s.dir); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return err
			}
			if err := lab.Isolate(); err != nil {
				return err
			}
			c.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			res, err := c.Run(cmd.Context())
			if err != nil {
				return fmt.Errorf("chaos: %w", err)
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			if !s.json {
				enc.SetIndent("", "  ")
			}
			return errors.Join(res.WriteTable(cmd.ErrOrStderr()), enc.Encode(res), res.Verdict())
		},
	}
	f := cmd.Flags()
	f.DurationVar(&c.Duration, "duration", 10*time.Minute, "how long faults go on")
	f.IntVar(&c.Regions, "regions", 2, "regions")
	f.IntVar(&c.Servers, "servers", 3, "servers of each region: 3 or 5")
	f.IntVar(&c.Caches, "caches", 2, "caches of each region")
	f.IntVar(&c.Workers, "workers", 1, "workers of each region")
	f.IntVar(&c.Machines, "machines", 4, "machines, dealt to the regions in turn")
	f.StringVar(&kinds, "faults", "", "kinds of faults, with commas between them; all unless given")
	f.BoolVar(&c.Keep, "keep", false, "keep the processes' logs, as is done when a promise was broken")
	f.StringVar(&s.dir, "dir", os.TempDir(), "where the data goes")
	return cmd
}

// newExecTrapped starts a process of a chaos run.
func newExecTrapped() *cobra.Command {
	return &cobra.Command{
		Use: chaos.ExecCommand + " SOCKET NAME COMMAND…", Hidden: true, DisableFlagParsing: true, Args: cobra.MinimumNArgs(3),
		RunE: func(_ *cobra.Command, args []string) error { return faults.ExecTrapped(args[0], args[1], args[2:]) },
	}
}
