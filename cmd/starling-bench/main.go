// Command starling-bench measures Starling by scenario, see packages bench and bench/trial.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/chaos"
	"github.com/starlingdeploy/starling/faults"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	meter := newMeter(os.Stderr)
	err := newRoot(meter).ExecuteContext(ctx)
	meter.close()
	if err != nil {
		fmt.Fprintln(os.Stderr, "starling-bench: "+err.Error())
		if starling.IsInvalid(err) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func newRoot(m *meter) *cobra.Command {
	root := &cobra.Command{
		Use: "starling-bench", Short: "Measures Starling", Version: version,
		SilenceUsage: true, SilenceErrors: true,
		Long: `Measures Starling by scenario: one run of one scenario with its flags, or a file of
scenarios with repeats. Results can be kept, compared and drawn.`,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return starling.Invalidf("usage", "%s", err) })
	scenarios := registry(m)
	root.AddGroup(&cobra.Group{ID: "scenarios", Title: "Scenarios:"}, &cobra.Group{ID: "results", Title: "Files and results:"})
	for _, s := range scenarios.All() {
		root.AddCommand(newScenario(s, m))
	}
	root.AddCommand(newList(scenarios), newRun(scenarios, m), newCompare(), newReport(), newExecTrapped())
	return root
}

// registry lists all scenarios, with this computer's places.
func registry(m *meter) trial.Registry {
	env := bench.Env{Bin: besideMe("starling"), Temp: os.TempDir(), Memory: memoryDir()}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return append(bench.Scenarios(env), func() *trial.Scenario {
		return chaos.Scenario(chaos.Env{Bin: env.Bin, Self: self, Temp: env.Temp, Log: m.log()})
	})
}

// newExecTrapped starts a process of a chaos run.
func newExecTrapped() *cobra.Command {
	return &cobra.Command{
		Use: chaos.ExecCommand + " SOCKET NAME COMMAND…", Hidden: true, DisableFlagParsing: true, Args: cobra.MinimumNArgs(3),
		RunE: func(_ *cobra.Command, args []string) error { return faults.ExecTrapped(args[0], args[1], args[2:]) },
	}
}

// exactly refuses another number of arguments, as wrong usage.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return starling.Invalidf("usage", "%s: got %d arguments", cmd.UseLine(), len(args))
		}
		return nil
	}
}

// commandLine is this program's as a shell takes it.
func commandLine() string {
	words := []string{filepath.Base(os.Args[0])}
	for _, w := range os.Args[1:] {
		words = append(words, quoted(w))
	}
	return strings.Join(words, " ")
}

// quoted writes a word as a shell takes it.
func quoted(w string) string {
	if w == "" || strings.ContainsAny(w, " \t\n;&|*?$<>(){}[]'\"\\`~#!") {
		return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return w
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

// writeFile writes a file by way of f.
func writeFile(name string, f func(*os.File) error) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f(out), out.Close())
}
