// Command starling is the one binary of Starling: server, cache, worker, machine and CLI.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // freezes name time zones, and the computer may have none

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// version is set by the linker.
var version = "dev"

// Exit codes of the CLI.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitCancelled = 3

	// Of a machine that the region does not let in. It is no use to start it again before somebody
	// has done something about it.
	exitRefused = 4 // its join token, its CA, its region, or an operator's word
	exitTaken   = 5 // another machine has its name
	exitClock   = 6 // its clock, or the server's
)

// exitError ends the program with a code of its own. An empty message prints nothing.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

// codeError is an error that ends the program with a code of its own.
type codeError struct {
	error
	code int
}

func (e *codeError) Unwrap() error { return e.error }

// usageError is bad input that the command line has found by itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && err.Error() != "" {
		fmt.Fprint(os.Stderr, told(err))
	}
	return exitCode(err)
}

// told is an error for people: what is wrong, and on a line of its own what to do about it.
func told(err error) string {
	text, hint := err.Error(), ""
	var problem *client.Error
	var field *starling.FieldError
	switch {
	case errors.As(err, &problem):
		hint = problem.Hint
		text = strings.Replace(text, " ("+hint+")", "", 1) // for logs, client has it on one line
	case errors.As(err, &field):
		if hint = field.Hint; hint == "" {
			hint = starling.HintOf(field.Field)
		}
	}
	if hint == "" {
		return "starling: " + text + "\n"
	}
	return "starling: " + text + "\nhint: " + hint + "\n"
}

func exitCode(err error) int {
	var exit *exitError
	var coded *codeError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage), starling.IsInvalid(err):
		return exitUsage
	default:
		return exitFailed
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "starling",
		Short:         "Takes a commit, builds it, and has it running on the whole fleet",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &exitError{exitUsage, err.Error()}
	})
	root.AddCommand(
		agentCommand(), devCommand(),
		appCommand(), deployCommand(), statusCommand(), whyCommand(), logsCommand(), rollbackCommand(),
		actionCommand(starling.ActionCancel, "End a deployment under way; its tokens are fenced when this returns"),
		planCommand(), approveCommand(), historyCommand(),
		actionCommand(starling.ActionPause, "Stop a roll-out at its present wave"),
		actionCommand(starling.ActionResume, "Let a paused roll-out go on"),
		actionCommand(starling.ActionPromote, "Begin the next wave now, without waiting for machines or the bake"),
		actionCommand(starling.ActionAbort, "Fail a deployment now: back to the release before, or stay, as its strategy says"),
		artifactCommand(), serverCommand(), nodeCommand(), cellCommand(), regionCommand(), operatorCommand(),
		tlsCommand(), aclCommand(), webhookCommand(), notifyCommand(),
	)
	return root
}

// group returns a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(subs...)
	return c
}

// atMostOneArg is cobra.MaximumNArgs(1) with the exit code of a usage error.
func atMostOneArg(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return &exitError{exitUsage, fmt.Sprintf("want one argument at most, got %d: %s", len(args), cmd.UseLine())}
	}
	return nil
}

// exactArgs is cobra.ExactArgs with the exit code of a usage error.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return &exitError{exitUsage, fmt.Sprintf("want %d arguments, got %d: %s", n, len(args), cmd.UseLine())}
		}
		return nil
	}
}
