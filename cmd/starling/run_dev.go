package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

func devCommand() *cobra.Command {
	var size world.Size
	var dir, example string
	var once bool
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole world on this computer: regions, servers, caches, workers, machines",
		Long: "Each part is a real `starling agent` process with its own data directory and log, so that one\n" +
			"can be ended with kill -9 and watched. With --once, runs a scripted tour and exits.",
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := size.Check(); err != nil {
				return err
			}
			bin, err := os.Executable()
			if err != nil {
				return err
			}
			root, remove, err := devDir(dir, once)
			if err != nil {
				return err
			}
			w, err := world.New(bin, root, size)
			if err != nil {
				return err
			}
			defer func() {
				err = errors.Join(err, w.Close())
				if err == nil && remove {
					err = os.RemoveAll(root)
				}
			}()
			if err := w.Start(); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if once {
				return runTour(cmd.Context(), out, w, example)
			}
			return watchWorld(cmd.Context(), out, w)
		},
	}
	f := c.Flags()
	f.IntVar(&size.Regions, "regions", 2, "regions")
	f.IntVar(&size.Servers, "servers", 3, "servers in each region: 1, 3 or 5")
	f.IntVar(&size.Caches, "caches", 1, "caches in each region")
	f.IntVar(&size.Workers, "workers", 1, "build workers in each region")
	f.IntVar(&size.Machines, "machines", 6, "machines, dealt to the regions in turn")
	f.BoolVar(&once, "once", false, "run the tour and exit")
	f.StringVar(&dir, "dir", "", "where the world is kept (default: .starling/dev; a temporary folder with --once)")
	f.StringVar(&example, "example", "examples/hello", "the app that the tour deploys")
	return c
}

// devDir returns an empty folder for a new world, and whether to remove it afterwards.
func devDir(dir string, once bool) (root string, remove bool, err error) {
	if dir == "" && once {
		root, err = os.MkdirTemp("", "starling-dev-")
		return root, true, err
	}
	if dir == "" {
		dir = filepath.Join(".starling", "dev")
	}
	if root, err = filepath.Abs(dir); err != nil {
		return "", false, err
	}
	entries, err := os.ReadDir(root)
	if err == nil && len(entries) > 0 {
		return "", false, &exitError{exitUsage, root + " holds an earlier world: remove it, or name another folder with --dir"}
	}
	return root, false, os.MkdirAll(root, 0o755)
}

// watchWorld waits for the world to be ready, says what is where, and reports what
// ends until ctx does.
func watchWorld(ctx context.Context, out io.Writer, w *world.World) error {
	if _, err := w.Ready(ctx); err != nil {
		return err
	}
	if err := printTable(out, "PROCESS\tREGION\tPID\tHTTP\tLOG", func(row func(...any)) {
		for _, p := range w.Procs {
			http := ""
			if p.Role == starling.RoleServer {
				http = "http://" + p.HTTP
			}
			row(p.Name, p.Region, p.PID(), http, p.Log)
		}
	}); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nexport STARLING_ADDR=http://%s\nstarling app apply FILE.hcl; starling deploy APP; starling node status\nCtrl-C ends it all.\n",
		w.WithRole(starling.RoleServer)[0].HTTP)
	ended := make(chan *world.Proc)
	for _, p := range w.Procs {
		go func() {
			<-p.Exited()
			select {
			case ended <- p:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case p := <-ended:
			fmt.Fprintf(out, "%s has ended. Start it again with: (cd %s && %s agent --config=%s)\n", p.Name, filepath.Dir(p.Config), os.Args[0], p.Config)
		}
	}
}
