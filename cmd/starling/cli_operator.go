package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
)

func operatorCommand() *cobra.Command {
	generate := &cobra.Command{
		Use: "generate", Short: "Print a new gossip key", Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), newGossipKey())
			return err
		},
	}
	return group("operator", "Raft and gossip, for operators",
		group("raft", "The Raft configuration",
			apiCommand("list-peers", "List the servers of the Raft configuration", exactArgs(0), listPeers),
			apiCommand("remove-peer NAME", "Take a server out of the configuration", exactArgs(1),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
					return c.RemovePeer(cmd.Context(), args[0])
				}),
			apiCommand("transfer-leadership", "Make another server lead", exactArgs(0),
				func(cmd *cobra.Command, c *client.Client, _ *apiFlags, _ []string) error {
					return c.TransferLeadership(cmd.Context())
				}),
			recoverCommand()),
		group("autopilot", "The servers' health", apiCommand("health", "Show how the servers are, as the leader sees them", exactArgs(0), serverHealth)),
		group("snapshot", "Saved states of a region",
			apiCommand("save FILE", "Save the region's state", exactArgs(1), saveSnapshot),
			apiCommand("restore FILE", "Put a saved state in place of the region's", exactArgs(1), restoreSnapshot),
			inspectCommand()),
		group("gossip", "The gossip's encryption", group("keyring", "Its keys", generate), rotateCellCommand()))
}

func listPeers(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
	peers, err := c.RaftPeers(cmd.Context())
	if err != nil {
		return err
	}
	return a.show(cmd, peers, "NAME\tADDRESS\tVOTER\tLEADER\tLEVEL", func(row func(...any)) {
		for _, p := range peers {
			row(p.Name, p.Addr, p.Voter, p.Leader, p.Level)
		}
	})
}

func serverHealth(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
	h, err := c.ServerHealth(cmd.Context())
	if err != nil {
		return err
	}
	if !a.json {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "healthy: %t; %d more may fail\n", h.Healthy, h.FailureTolerance); err != nil {
			return err
		}
	}
	return a.show(cmd, h, "NAME\tADDRESS\tGOSSIP\tVOTER\tLEADER\tHEALTHY\tCONTACT\tTERM\tINDEX\tSINCE", func(row func(...any)) {
		for _, s := range h.Servers {
			contact := "never"
			if s.LastContactMS >= 0 {
				contact = (time.Duration(s.LastContactMS) * time.Millisecond).String()
			}
			row(s.Name, s.Addr, s.Status, s.Voter, s.Leader, s.Healthy, contact, s.LastTerm, s.LastIndex, s.StableSince.Format(time.RFC3339))
		}
	})
}

// saveSnapshot leaves a file only if it is whole.
func saveSnapshot(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
	file, err := renameio.NewPendingFile(args[0], renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("save a snapshot: %w", err)
	}
	err = c.SaveSnapshot(cmd.Context(), file)
	var info starling.SnapshotInfo
	if err == nil {
		if _, err = file.Seek(0, io.SeekStart); err == nil {
			info, err = raftfsm.Inspect(file)
		}
	}
	if err == nil {
		err = file.CloseAtomicallyReplace()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save a snapshot in %s: %w", args[0], err), file.Cleanup())
	}
	return showSnapshot(cmd, a.json, info)
}

// restoreSnapshot reads the file to its end before the region hears of it.
func restoreSnapshot(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) (err error) {
	file, err := os.Open(args[0])
	if err != nil {
		return fmt.Errorf("restore a snapshot: %w", err)
	}
	defer file.Close()
	if _, err := raftfsm.Inspect(bufio.NewReader(file)); err != nil {
		return fmt.Errorf("%s cannot be restored: %w", args[0], err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("restore a snapshot: %w", err)
	}
	info, err := c.RestoreSnapshot(cmd.Context(), file)
	if err != nil {
		return err
	}
	return showSnapshot(cmd, a.json, info)
}

func inspectCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "inspect FILE", Short: "Check a saved state and show what is in it", Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("inspect: %w", err)
			}
			defer file.Close()
			info, err := raftfsm.Inspect(file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return showSnapshot(cmd, asJSON, info)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func showSnapshot(cmd *cobra.Command, asJSON bool, info starling.SnapshotInfo) error {
	out := cmd.OutOrStdout()
	if asJSON {
		return printJSON(out, info)
	}
	if _, err := fmt.Fprintf(out, "region %s at index %d, %s; %d deployments under way\n", info.Region, info.Index, info.At.Format(time.RFC3339), info.Active); err != nil {
		return err
	}
	return printTable(out, "TABLE\tRECORDS", func(row func(...any)) {
		for _, table := range slices.Sorted(maps.Keys(info.Records)) {
			row(table, info.Records[table])
		}
	})
}

// recoverCommand works on the files of a server that is stopped.
func recoverCommand() *cobra.Command {
	var files []string
	var flags agentFlags
	var yes bool
	c := &cobra.Command{
		Use:   "recover",
		Short: "Make this stopped server the only one of its region, when most of its servers are gone for good",
		Long: `Make this stopped server the only one of its region, when most of its servers are
gone for good. It takes the agent's flags, --config above all, and works on the files in
data_dir. Without --yes it only tells what they hold.

What this server's log lacks is lost; what it holds counts as committed, whether it was
or not. Deployments under way end as failed. The other servers must never start again
with their old files: erase their data_dir/raft first.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(files)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			if err := flags.apply(cmd, cfg); err != nil {
				return err
			}
			if err := cfg.finish(); err != nil {
				return err
			}
			return recoverServer(cmd, cfg, yes)
		},
	}
	c.Flags().StringArrayVar(&files, "config", nil, "agent file (HCL); may be given several times")
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	flags.register(c)
	return c
}

func recoverServer(cmd *cobra.Command, cfg *Config, yes bool) error {
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	log, err := newLogger(cmd, cfg)
	if err != nil {
		return err
	}
	r := raftnode.Recovery{
		Name: cfg.Name, Region: cfg.Region, DataDir: filepath.Join(cfg.DataDir, "raft"),
		Addr: cfg.advertisedQUIC(), Actor: "operator:recover", Logger: log,
	}
	s, err := raftnode.Survey(r)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if _, err := fmt.Fprintf(out, "%s of region %s: log up to index %d, term %d; servers %v\n", cfg.Name, cfg.Region, s.LastIndex, s.LastTerm, s.Servers); err != nil {
		return err
	}
	if err := showSnapshot(cmd, false, s.State); err != nil {
		return err
	}
	if !yes {
		_, err := fmt.Fprintf(out, "\nWARNING: --yes would make %s the only server of region %s. What its log lacks is lost for good.\n"+
			"Only where the other servers never return with their old files; compare their logs first, and take the longest.\n", cfg.Name, cfg.Region)
		return err
	}
	if s, err = raftnode.Recover(r, time.Now()); err != nil {
		return err
	}
	others := slices.DeleteFunc(s.Servers, func(name string) bool { return name == cfg.Name })
	_, err = fmt.Fprintf(out, "\n%s is the only server of region %s now, at index %d. Start it, then add others with empty data directories.\n"+
		"WARNING: never start one of %v again with its old files: erase its data_dir/raft first.\n", cfg.Name, cfg.Region, s.State.Index, others)
	return err
}
