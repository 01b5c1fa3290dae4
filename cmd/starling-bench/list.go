package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

// newList lists scenarios, or what one has.
func newList(scenarios trial.Registry) *cobra.Command {
	return &cobra.Command{
		Use: "list [SCENARIO]", Short: "List scenarios, or the parameters and figures of one", GroupID: "results",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return starling.Invalidf("usage", "list takes one scenario at most")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			if len(args) == 0 {
				for _, s := range scenarios.All() {
					fmt.Fprintf(w, "%s\t%s\n", s.Name, s.Purpose)
				}
				return w.Flush()
			}
			s, err := scenarios.New(args[0])
			if err != nil {
				return err
			}
			listOne(w, s)
			return w.Flush()
		},
	}
}

func listOne(w io.Writer, s *trial.Scenario) {
	fmt.Fprintf(w, "%s: %s\n", s.Name, s.Purpose)
	if s.About != "" {
		fmt.Fprintf(w, "%s\n", s.About)
	}
	fmt.Fprint(w, "\nparameter\ttype\tdefault\twhat it is\n")
	s.Params.VisitAll(func(f *pflag.Flag) {
		kind, usage := trial.Describe(f)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, kind, f.DefValue, usage)
	})
	fmt.Fprint(w, "\nfigure\tunit\tbetter\twhat it is\n")
	for _, m := range s.Metrics {
		better := string(m.Better)
		if better == "" {
			better = "–"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, m.Unit, better, m.Help)
	}
}
