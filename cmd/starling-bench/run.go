package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/lab"
)

// output says where a measurement's result goes.
type output struct {
	json      bool
	out, html string
}

func (o *output) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "print one JSON object, on one line")
	f.StringVar(&o.out, "out", "", "write a result `file`, which can be compared and drawn")
	f.StringVar(&o.html, "html", "", "write a report to this `file`")
}

// newScenario is the command of a scenario: one run, with its parameters as flags.
func newScenario(s *trial.Scenario, m *meter) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: s.Name, Short: s.Purpose, Long: s.Purpose + ".\n" + s.About, Args: exactly(0), GroupID: "scenarios",
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, failed := measure(cmd.Context(), trial.Once(s), m)
			if failed != nil {
				return failed
			}
			one := file.Runs[0].Repeats[0]
			if err := errors.Join(m.notes(one.Notes), printJSON(cmd.OutOrStdout(), one.Result, o.json), o.write(file)); err != nil {
				return err
			}
			return broken(file)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(s.Params)
	o.flags(cmd)
	return cmd
}

// newRun measures what a file says.
func newRun(scenarios trial.Registry, m *meter) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "run FILE.hcl", Short: "Measure what a scenario file says, with repeats", Args: exactly(1), GroupID: "results",
		Long: `Measures the scenarios of a file, each as often as it says, in turns if it says so, and prints
medians with intervals. --out keeps every figure of every repeat. If it is stopped, what was
measured until then is kept. How files are written: docs/bench/README.md.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := trial.ReadPlan(args[0], scenarios)
			if err != nil {
				return err
			}
			file, failed := measure(cmd.Context(), plan, m)
			if file == nil {
				return failed
			}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), file, true)
			} else {
				err = trial.WriteSummary(cmd.OutOrStdout(), file)
			}
			return errors.Join(failed, err, o.write(file), broken(file))
		},
	}
	o.flags(cmd)
	return cmd
}

// measure measures a plan, in namespaces of its own where that is needed.
func measure(ctx context.Context, plan *trial.Plan, m *meter) (*trial.File, error) {
	if err := plan.Check(); err != nil { // before the program runs again
		return nil, err
	}
	if need := plan.Hosts(); need == trial.HostsNeeded || need == trial.HostsIfPossible && lab.Possible() == nil {
		if err := lab.Isolate(); err != nil {
			return nil, err
		}
	}
	return plan.Measure(ctx, trial.File{Command: commandLine(), Version: version}, m.watch())
}

// broken says which measurements broke a promise.
func broken(f *trial.File) error {
	var errs []error
	for _, run := range f.Runs {
		for _, r := range run.Repeats {
			if r.Broken != "" {
				errs = append(errs, fmt.Errorf("%s: %s", run.Title(), r.Broken))
			}
		}
	}
	return errors.Join(errs...)
}

func (o *output) write(f *trial.File) error {
	var errs []error
	if o.out != "" {
		errs = append(errs, writeFile(o.out, func(w *os.File) error { return f.Write(w) }))
	}
	if o.html != "" {
		errs = append(errs, writeFile(o.html, func(w *os.File) error { return trial.WriteReport(w, f) }))
	}
	return errors.Join(errs...)
}

func printJSON(w io.Writer, v any, oneLine bool) error {
	enc := json.NewEncoder(w)
	if !oneLine {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}
