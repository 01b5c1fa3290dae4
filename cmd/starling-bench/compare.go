package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/bench/trial"
)

// newCompare judges one result file by another.
func newCompare() *cobra.Command {
	var force, asJSON bool
	least := "1%"
	cmd := &cobra.Command{
		Use: "compare OLD.json[#LABEL] NEW.json[#LABEL]", Short: "Compare two result files, with a verdict", Args: exactly(2), GroupID: "results",
		Long: `Compares the runs of one scenario and label in both files, figure by figure: better, worse, no
difference shown, or not comparable. With #LABEL, runs of other labels, or of one file.

The ratio is the median of all ratios of a new value to an old one (Hodges and Lehmann), its interval of
95 % is that of Mann and Whitney's test: it needs four repeats of each, and no assumption on how values are
distributed. Each figure is judged alone: of twenty that did not change, one may seem to.

Exit code: 0 the same or better, 1 worse, 2 wrong usage, also if the two should not be compared.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			share, err := starling.ParsePercent(least)
			if err != nil {
				return starling.Invalidf("--least", "%s", err)
			}
			pair, err := trial.Pair(args[0], args[1])
			if err != nil {
				return err
			}
			if unlike := pair.Unlike(); len(unlike) > 0 && !force {
				return starling.Invalidf("compare", "the two differ in what was measured, or where; --force compares them all the same:\n  %s", strings.Join(unlike, "\n  "))
			} else if len(unlike) > 0 {
				fmt.Fprintf(os.Stderr, "compared although they differ:\n  %s\n", strings.Join(unlike, "\n  "))
			}
			all := pair.Compare(share)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), struct {
					Comparisons []*trial.Comparison `json:"comparisons"`
				}{all}, true)
			} else {
				err = trial.WriteComparison(cmd.OutOrStdout(), all)
			}
			if err != nil {
				return err
			}
			return trial.Conclude(all)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "compare different parameters or computers")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object, on one line")
	cmd.Flags().StringVar(&least, "least", least, "a smaller difference is none, however sure")
	return cmd
}

// newReport draws a result file.
func newReport() *cobra.Command {
	html := ""
	cmd := &cobra.Command{
		Use: "report RESULT.json --html FILE", Short: "Draw a result file as one HTML page", Args: exactly(1), GroupID: "results",
		RunE: func(_ *cobra.Command, args []string) error {
			if html == "" {
				return starling.Invalidf("--html", "is missing: name the file to write")
			}
			f, err := trial.ReadFile(args[0])
			if err != nil {
				return err
			}
			return writeFile(html, func(w *os.File) error { return trial.WriteReport(w, f) })
		},
	}
	cmd.Flags().StringVar(&html, "html", "", "write the page to this `file`")
	return cmd
}
