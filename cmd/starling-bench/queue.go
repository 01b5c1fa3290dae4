package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench"
)

// queueSetUp bounds what a round takes beside its measurements.
const queueSetUp = 2 * time.Minute

// newQueue is the scenario of job cycles.
func newQueue(s *settings) *cobra.Command {
	var c bench.QueueConfig
	var compare []string
	cmd := &cobra.Command{
		Use: "queue", Short: "Job cycles per second: submit, lease, end; beside PostgreSQL", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range compare {
				if name != "postgres" {
					return starling.Invalidf("--compare", "%.40q is not known, only postgres is", name)
				}
				c.Postgres = true
			}
			dir, err := filepath.Abs(c.Dir)
			if err != nil {
				return err
			}
			c.Bin, c.Dir = s.bin, dir
			if err := c.Check(); err != nil {
				return err
			}
			most := time.Duration(c.Rounds) * (queueSetUp + 2*time.Duration(len(c.Clients))*(c.Duration+10*time.Second))
			ctx, cancel := context.WithTimeout(cmd.Context(), most)
			defer cancel()
			res, err := c.Run(ctx)
			if err != nil {
				return fmt.Errorf("queue: %w", err)
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			if !s.json {
				enc.SetIndent("", "  ")
			}
			return enc.Encode(res)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&c.Duration, "duration", 10*time.Second, "of each measurement")
	f.IntVar(&c.Servers, "servers", 3, "servers: 1, 3 or 5, each with its own disk log, fsync on")
	f.IntSliceVar(&c.Clients, "clients", []int{1, 16, 64, 512}, "numbers of clients")
	f.IntVar(&c.Rounds, "rounds", 1, "rounds of each system, in turns; medians are reported")
	f.StringVar(&c.Dir, "dir", os.TempDir(), "where the data of both systems goes")
	f.StringSliceVar(&compare, "compare", nil, "measure beside it: postgres")
	return cmd
}
