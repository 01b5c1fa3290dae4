// Command starling-bench measures Starling by scenario, see package bench.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench"
	"github.com/starlingdeploy/starling/lab"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "starling-bench: "+err.Error())
		if starling.IsInvalid(err) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// settings are the flags that scenarios share; each uses those that it has a meaning for.
type settings struct {
	bin      string
	json     bool
	machines int
	servers  int
	count    int
	content  int64 // bytes to cut
	bytes    int64 // of the artifact
	rate     int
	cap      int
	caches   int
	rounds   int
	dir      string
	compare  []string
	faults   string
	delta    string
	html     string
	curves   bool
	seed     uint64
	duration time.Duration
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "starling-bench", Short: "Measures Starling", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	var s settings
	f := root.PersistentFlags()
	f.StringVar(&s.bin, "starling", besideMe("starling"), "the starling binary")
	f.BoolVar(&s.json, "json", false, "print one JSON object")
	f.Uint64Var(&s.seed, "seed", 1, "of all randomness")
	f.DurationVar(&s.duration, "duration", 10*time.Minute, "give up after this long")

	chunk := scenario(&s, "chunk", "Cutting and hashing", func(ctx context.Context) (any, error) {
		return bench.ChunkConfig{Bytes: s.content, Seed: s.seed, Dir: memoryDir()}.Run(ctx)
	})
	chunk.Flags().Int64Var(&s.content, "bytes", 1<<30, "content")
	submit := scenario(&s, "submit", "Time to an acknowledged submission", func(ctx context.Context) (any, error) {
		return bench.SubmitConfig{Bin: s.bin, Servers: s.servers, Count: s.count, Pause: 50 * time.Millisecond}.Run(ctx)
	})
	submit.Flags().IntVar(&s.servers, "servers", 3, "servers: 1, 3 or 5")
	submit.Flags().IntVar(&s.count, "count", 100, "submissions")
	swarm := scenario(&s, "swarm", "One artifact to many machines", func(ctx context.Context) (any, error) {
		return runSwarm(ctx, &s)
	})
	swarm.Flags().IntVar(&s.caches, "caches", 1, "caches that hold the artifact at first")
	swarm.Flags().IntVar(&s.rounds, "rounds", 1, "rounds of each system, in turns")
	swarm.Flags().Int64Var(&s.bytes, "bytes", 500_000_000, "size of the artifact")
	swarm.Flags().IntVar(&s.machines, "machines", 8, "machines")
	swarm.Flags().IntVar(&s.rate, "rate", 0, "Mbit/s of each link; 0: unshaped")
	swarm.Flags().IntVar(&s.cap, "cap", 0, "Mbit/s that caches and machines are told not to exceed; 0: none")
	swarm.Flags().StringVar(&s.dir, "dir", os.TempDir(), "where the data goes")
	swarm.Flags().StringSliceVar(&s.compare, "compare", nil, "measure other programs beside it: "+strings.Join(bench.Rivals(), ", "))
	swarm.Flags().StringVar(&s.faults, "faults", "", `a failure script, like "kill 10% at 50%; slow 1 at 0%; kill cache at 3s"`)
	swarm.Flags().StringVar(&s.delta, "delta", "0%", "then deploy another artifact with this share of the bytes changed")
	swarm.Flags().StringVar(&s.html, "html", "", "write a report to this file")
	swarm.Flags().BoolVar(&s.curves, "curves", false, "print what the links carried over time, too")
	virtual := bench.SimConfig{}
	simulated := scenario(&s, "sim", "One artifact to very many machines, simulated", func(ctx context.Context) (any, error) {
		virtual.Seed = s.seed
		return virtual.Run(ctx)
	})
	simulated.Flags().Int64Var(&virtual.Bytes, "bytes", 500_000_000, "size of the artifact")
	simulated.Flags().IntVar(&virtual.Machines, "machines", 1500, "machines")
	simulated.Flags().IntVar(&virtual.RateMbit, "rate", 1000, "Mbit/s of each link")
	root.AddCommand(chunk, submit, swarm, simulated, newQueue(&s), newChaos(&s), newExecTrapped())
	return root
}

func scenario(s *settings, name, short string, run func(context.Context) (any, error)) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), s.duration)
			defer cancel()
			result, err := run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			if !s.json {
				enc.SetIndent("", "  ")
			}
			return enc.Encode(result)
		},
	}
}

// runSwarm measures in namespaces of its own where it can.
func runSwarm(ctx context.Context, s *settings) (*bench.SwarmResult, error) {
	faults, err := bench.ParseFaults(s.faults)
	if err != nil {
		return nil, err
	}
	delta, err := starling.ParsePercent(s.delta)
	if err != nil {
		return nil, starling.Invalidf("--delta", "%s", err)
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return nil, err
	}
	c := bench.SwarmConfig{
		Bin: s.bin, Machines: s.machines, Caches: s.caches, Bytes: s.bytes, RateMbit: s.rate, CapMbit: s.cap, Rounds: s.rounds, Seed: s.seed,
		Dir: dir, Compare: s.compare, Faults: faults, Delta: delta,
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if lab.Possible() == nil {
		if err := lab.Isolate(); err != nil {
			return nil, err
		}
	}
	res, err := c.Run(ctx)
	if err != nil {
		return nil, err
	}
	for _, note := range res.Notes {
		fmt.Fprintln(os.Stderr, "starling-bench: "+note)
	}
	if s.html != "" {
		if err := writeReport(s.html, res); err != nil {
			return nil, err
		}
	}
	if !s.curves {
		for _, r := range res.Rounds {
			r.Samples = nil
		}
	}
	return res, nil
}

// commandLine is this program's as a shell takes it.
func commandLine() string {
	words := []string{filepath.Base(os.Args[0])}
	for _, w := range os.Args[1:] {
		if strings.ContainsAny(w, " \t\n;&|*?$<>(){}[]'\"\\`~#!") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// writeReport writes the page. It gets the samples, which the printed result may lack.
func writeReport(name string, res *bench.SwarmResult) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	about := bench.About{Command: commandLine(), Version: version, At: time.Now()}
	return errors.Join(bench.WriteReport(f, res, about), f.Close())
}

// besideMe returns the path of a program in this one's folder.
func besideMe(name string) string {
	me, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(me), name)
}

// memoryDir returns a folder in memory where there is one, so that no disk is measured.
func memoryDir() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return os.TempDir()
}
