package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// devConfig fills a configuration for --dev: every role on loopback, plain HTTP
// without tokens, and certificates of its own, made once below the data directory.
func devConfig(c *Config) error {
	if c.Name == "" {
		c.Name = "dev"
	}
	if c.Region == "" {
		c.Region = "dev"
	}
	if c.DataDir == "" {
		c.DataDir = filepath.Join(".starling", "agent")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	c.DataDir = dir
	c.Server = &ServerBlock{Enabled: true, BootstrapExpect: 1, Replicas: 1}
	c.Cache = &CacheBlock{Enabled: true}
	c.Worker = &WorkerBlock{Enabled: true, AllowFileRepos: true}
	if c.Machine == nil {
		c.Machine = &MachineBlock{}
	}
	c.Machine.Enabled = true
	off := false
	c.HTTP = &HTTPBlock{TLS: &off, ACL: &off}

	tlsDir := filepath.Join(dir, "tls")
	keyFileName := filepath.Join(tlsDir, "gossip.key")
	if _, err := os.Stat(keyFileName); err != nil {
		if err := makeDevIdentity(c, tlsDir); err != nil {
			return err
		}
	}
	c.TLS = &TLSBlock{CA: filepath.Join(tlsDir, caFile), Cert: filepath.Join(tlsDir, certFile), Key: filepath.Join(tlsDir, keyFile)}
	c.Gossip = &GossipBlock{KeyFile: keyFileName}
	return nil
}

// makeDevIdentity makes an authority, one certificate with all roles and a gossip key.
// The authority's key is not kept.
func makeDevIdentity(c *Config, dir string) error {
	ca, err := pki.NewCA("dev", time.Now())
	if err != nil {
		return err
	}
	cert, key, err := ca.Issue(pki.Request{Name: c.Name, Region: c.Region, Roles: starling.Roles, TTL: 10 * 365 * 24 * time.Hour}, time.Now())
	if err != nil {
		return err
	}
	err = writeNew(dir, map[string][]byte{
		caFile: ca.CertPEM(), certFile: cert, keyFile: key, "gossip.key": []byte(newGossipKey() + "\n"),
	})
	if err != nil {
		return fmt.Errorf("%w (an unfinished earlier start? remove %s)", err, strings.TrimSuffix(dir, "/"))
	}
	return nil
}
