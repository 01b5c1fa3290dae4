package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

func logsCommand() *cobra.Command {
	var followLog bool
	var from string
	c := apiCommand("logs ID", "Print the log of a deployment: of its builds and hooks", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
			at, err := starling.ParseLogPlace("--from", from)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			out := &logPrinter{w: cmd.OutOrStdout()}
			if err = c.Log(cmd.Context(), args[0], at, followLog, out.chunk); errors.Is(err, client.ErrTextOnly) {
				return textLog(cmd.Context(), c, args[0], followLog, cmd.OutOrStdout())
			}
			if err != nil && len(at) > 0 {
				return fmt.Errorf("%w\ngo on with --from %s", err, at)
			}
			return err
		})
	c.Flags().BoolVarP(&followLog, "follow", "f", false, "go on until nothing will be added any more")
	c.Flags().StringVar(&from, "from", "", "go on after this place, which a broken call has named")
	return c
}

// logPrinter prints the pieces of a log. Whatever is not of the section before begins on a
// line of its own, below the name of its section.
type logPrinter struct {
	w       io.Writer
	section string
	midLine bool
}

func (p *logPrinter) chunk(c starling.LogChunk) error {
	var b strings.Builder
	if c.Section != p.section && (p.section != "" || c.Section != starling.BuildSection(1)) {
		if p.midLine {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "--- %s ---\n", logTitle(c.Section))
		p.midLine = false
	}
	p.section = c.Section
	if c.Lost != "" {
		if p.midLine {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "starling: the rest of this section %s\n", c.Lost)
		p.midLine = false
	}
	b.Write(c.Data)
	if len(c.Data) > 0 {
		p.midLine = c.Data[len(c.Data)-1] != '\n'
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

// logTitle names a section for people.
func logTitle(section string) string {
	if n, ok := strings.CutPrefix(section, "build."); ok {
		return "build, attempt " + n
	}
	return section
}

// textLog prints the log of a server of the version before.
func textLog(ctx context.Context, c *client.Client, id string, follow bool, w io.Writer) error {
	var at int64
	for {
		var err error
		at, err = c.BuildLog(ctx, id, at, follow, w)
		if err == nil || !follow || !errors.Is(err, starling.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
