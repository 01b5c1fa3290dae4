package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func agentCommand() *cobra.Command {
	var files []string
	var dev bool
	var flags agentFlags
	c := &cobra.Command{
		Use:   "agent",
		Short: "Run one process of Starling: server, cache, worker, machine, or several of them",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(files)
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			if err := flags.apply(cmd, cfg); err != nil {
				return err
			}
			if dev {
				if err := devConfig(cfg); err != nil {
					return err
				}
			}
			if err := cfg.finish(); err != nil {
				return err
			}
			log, err := newLogger(cmd, cfg)
			if err != nil {
				return err
			}
			if n := cfg.cores(); n > 0 {
				runtime.GOMAXPROCS(n)
			}
			return runAgent(cmd.Context(), cfg, log, nil)
		},
	}
	c.Flags().StringArrayVar(&files, "config", nil, "agent file (HCL); may be given several times")
	c.Flags().BoolVar(&dev, "dev", false, "all roles in one process on loopback, with certificates of its own; for trying out")
	flags.register(c)
	return c
}

// agentFlags are the flags that stand beside an agent file.
type agentFlags struct {
	server, cache, worker, machine bool
	bootstrapExpect                int
	join, servers, tags            []string
	text                           map[string]*string
}

// textFlags names the flags that set one text of the configuration.
var textFlags = []struct {
	name, usage string
	field       func(*Config) *string
}{
	{"name", "name, unique in its region (default: the host's)", func(c *Config) *string { return &c.Name }},
	{"region", "region", func(c *Config) *string { return &c.Region }},
	{"zone", "zone within the region", func(c *Config) *string { return &c.Zone }},
	{"rack", "rack within the zone", func(c *Config) *string { return &c.Rack }},
	{"data-dir", "where everything is kept", func(c *Config) *string { return &c.DataDir }},
	{"bind", "IP address to listen on", func(c *Config) *string { return &c.Bind }},
	{"advertise", "IP address that others reach this process at", func(c *Config) *string { return &c.Advertise }},
	{"join-token", "join token of a machine that has no certificate yet (better: a file, see join_token_file)", func(c *Config) *string { return &c.JoinToken }},
	{"log-level", "debug, info, warn or error", func(c *Config) *string { return &c.LogLevel }},
}

func (f *agentFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.BoolVar(&f.server, "server", false, "play the server role")
	fs.BoolVar(&f.cache, "cache", false, "play the cache role")
	fs.BoolVar(&f.worker, "worker", false, "play the worker role")
	fs.BoolVar(&f.machine, "machine", false, "play the machine role")
	fs.IntVar(&f.bootstrapExpect, "bootstrap-expect", 0, "servers that begin a new cluster: 1, 3 or 5")
	fs.StringSliceVar(&f.join, "join", nil, "gossip addresses of members of this region")
	fs.StringSliceVar(&f.servers, "servers", nil, "QUIC addresses of this region's servers, for machines")
	fs.StringSliceVar(&f.tags, "tag", nil, "machine tag, e.g. role=web")
	f.text = map[string]*string{}
	for _, t := range textFlags {
		f.text[t.name] = fs.String(t.name, "", t.usage)
	}
}

// apply sets what was given on the command line over the files.
func (f *agentFlags) apply(cmd *cobra.Command, c *Config) error {
	for _, t := range textFlags {
		if cmd.Flags().Changed(t.name) {
			*t.field(c) = *f.text[t.name]
		}
	}
	if f.server || f.bootstrapExpect > 0 {
		if c.Server == nil {
			c.Server = &ServerBlock{}
		}
		c.Server.Enabled = c.Server.Enabled || f.server
		if f.bootstrapExpect > 0 {
			c.Server.BootstrapExpect = f.bootstrapExpect
		}
	}
	if f.cache {
		if c.Cache == nil {
			c.Cache = &CacheBlock{}
		}
		c.Cache.Enabled = true
	}
	if f.worker {
		if c.Worker == nil {
			c.Worker = &WorkerBlock{}
		}
		c.Worker.Enabled = true
	}
	if f.machine || len(f.tags) > 0 || f.joins(cmd, c) {
		if c.Machine == nil {
			c.Machine = &MachineBlock{}
		}
		c.Machine.Enabled = c.Machine.Enabled || f.machine || f.joins(cmd, c)
	}
	c.Join = append(c.Join, f.join...)
	c.Servers = append(c.Servers, f.servers...)
	for _, t := range f.tags {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" {
			return starling.Invalidf("--tag", "%q: want name=value", t)
		}
		if c.Machine.Tags == nil {
			c.Machine.Tags = map[string]string{}
		}
		c.Machine.Tags[k] = v
	}
	return nil
}

// joins reports whether a join token alone says what this process is to be.
func (f *agentFlags) joins(cmd *cobra.Command, c *Config) bool {
	return cmd.Flags().Changed("join-token") && len(c.roles()) == 0
}

func newLogger(cmd *cobra.Command, cfg *Config) (*slog.Logger, error) {
	level := slog.LevelInfo
	if cfg.LogLevel != "" {
		if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
			return nil, starling.Invalidf("log_level", "%q: use debug, info, warn or error", cfg.LogLevel)
		}
	}
	h := slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})
	return slog.New(h).With("node", cfg.Name, "region", cfg.Region), nil
}

// stopWithin bounds an orderly stop; after it the process ends as it is, and recovers
// at the next start as after a crash.
const stopWithin = 20 * time.Second

// runAgent is one process of Starling, from top to bottom. It returns when ctx ends,
// after an orderly stop, or when a part fails. ready, if not nil, is called once
// everything listens.
func runAgent(ctx context.Context, cfg *Config, log *slog.Logger, ready func(*process)) (err error) {
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	enrolment, err := becomeMachine(ctx, cfg, log) // with a join token, or what it left on disk
	if err != nil {
		return err
	}
	p, err := newProcess(cfg, log) // certificate, QUIC endpoint, gossip
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.stop = cancel
	g, ctx := errgroup.WithContext(ctx)
	starting := p.startRoles(ctx, g)
	if enrolment != nil {
		g.Go(func() error { return p.renewCertificate(ctx, enrolment) })
	}
	if starting == nil {
		log.Info("running", "roles", cfg.roles(), "quic", p.endpoint.Addr(), "version", version)
		if ready != nil {
			ready(p)
		}
		<-ctx.Done()
	}
	cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- g.Wait() }()
	select {
	case err = <-stopped:
		if errors.Is(err, context.Canceled) {
			err = nil
		}
	case <-time.After(stopWithin):
		err = fmt.Errorf("some part did not stop within %s", stopWithin)
	}
	return errors.Join(starting, err)
}

// startRoles starts each role of this process. The machine comes before the cache,
// which serves its releases too.
func (p *process) startRoles(ctx context.Context, g *errgroup.Group) error {
	for _, r := range []struct {
		on    bool
		start func(context.Context, *errgroup.Group) error
	}{
		{p.cfg.isServer(), p.runServer},
		{p.cfg.isMachine(), p.runMachine},
		{p.cfg.isCache(), p.runCache},
		{p.cfg.isWorker(), p.runWorker},
	} {
		if !r.on {
			continue
		}
		if err := r.start(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// A process that was killed while it started another one leaves the lock to that one for a
// moment, until it has become what it is to be.
const (
	lockWithin = 3 * time.Second
	lockEvery  = 50 * time.Millisecond
)

// lockDataDir takes the data directory for this process alone.
func lockDataDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	began := time.Now()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if time.Since(began) < lockWithin {
			time.Sleep(lockEvery)
			continue
		}
		f.Close()
		return nil, fmt.Errorf("data_dir: %s is in use by another process: stop that one, or name another folder with --data-dir", dir)
	}
	return func() { f.Close() }, nil
}
