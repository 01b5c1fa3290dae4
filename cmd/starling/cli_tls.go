package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
)

// Names of the files that the tls commands write.
const (
	caFile      = "ca.pem"
	caKeyFile   = "ca-key.pem"
	certFile    = "node.pem"
	keyFile     = "node-key.pem"
	httpFile    = "http.pem"
	httpKeyFile = "http-key.pem"

	enrolFile    = "enrol.pem"
	enrolKeyFile = "enrol-key.pem"
)

func tlsCommand() *cobra.Command {
	return group("tls", "Make the cluster's certificates",
		group("ca", "The cluster's own authority", caCreateCommand(), caEnrolCommand()),
		group("cert", "Certificates of processes", certCreateCommand()))
}

func caCreateCommand() *cobra.Command {
	var dir, cluster string
	c := &cobra.Command{
		Use:   "create",
		Short: "Make the authority: " + caFile + " for every process, " + caKeyFile + " to keep offline",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := starling.CheckName("cluster", cluster); err != nil {
				return err
			}
			ca, err := pki.NewCA(cluster, time.Now())
			if err != nil {
				return err
			}
			keyPEM, err := ca.KeyPEM()
			if err != nil {
				return err
			}
			if err := writeNew(dir, map[string][]byte{caFile: ca.CertPEM(), caKeyFile: keyPEM}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s and %s: keep the key offline\n", filepath.Join(dir, caFile), filepath.Join(dir, caKeyFile))
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "folder to write to")
	c.Flags().StringVar(&cluster, "cluster", "starling", "name of the cluster")
	return c
}

func caEnrolCommand() *cobra.Command {
	var dir, caDir, region string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "enrol",
		Short: "Make a region's enrolment authority, with which its servers sign the machines that enrol",
		Long: "Writes " + enrolFile + " and " + enrolKeyFile + " for all servers of the region (tls { enrol_cert, enrol_key }).\n" +
			"They can make machines of that region and nothing else; the authority's own key stays offline.",
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := loadCA(caDir)
			if err != nil {
				return err
			}
			certPEM, keyPEM, err := ca.IssueEnroller(region, ttl, time.Now())
			if err != nil {
				return err
			}
			if err := writeNew(dir, map[string][]byte{enrolFile: certPEM, enrolKeyFile: keyPEM}); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s and %s for the servers of %s, valid for %s\n",
				filepath.Join(dir, enrolFile), filepath.Join(dir, enrolKeyFile), region, ttl)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", ".", "folder to write to")
	f.StringVar(&caDir, "ca-dir", ".", "folder with "+caFile+" and "+caKeyFile)
	f.StringVar(&region, "region", "", "region whose machines it signs")
	f.DurationVar(&ttl, "ttl", pki.DefaultTTL, "how long it is valid; no certificate that it signs is valid for longer")
	return c
}

func certCreateCommand() *cobra.Command {
	var dir, caDir, region, name string
	var roles, hosts []string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "create",
		Short: "Make the certificate of one process, with its roles and region",
		Long: "Writes " + certFile + " and " + keyFile + " (Ed25519, for QUIC and signatures), and for servers\n" +
			httpFile + " and " + httpKeyFile + " (ECDSA P-256, for the HTTP API and browsers).",
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := loadCA(caDir)
			if err != nil {
				return err
			}
			req := pki.Request{Name: name, Region: region, TTL: ttl}
			for _, r := range roles {
				req.Roles = append(req.Roles, starling.Role(r))
			}
			for _, h := range hosts {
				if ip := net.ParseIP(h); ip != nil {
					req.IPs = append(req.IPs, ip)
				} else {
					req.Hosts = append(req.Hosts, h)
				}
			}
			files, err := issue(ca, req)
			if err != nil {
				return err
			}
			if err := writeNew(dir, files); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote the certificate of %s in %s (%s) to %s, valid for %s\n", name, region, strings.Join(roles, ", "), dir, ttl)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", ".", "folder to write to")
	f.StringVar(&caDir, "ca-dir", ".", "folder with "+caFile+" and "+caKeyFile)
	f.StringVar(&region, "region", "", "region of the process")
	f.StringVar(&name, "name", "", "name of the process, unique in its region")
	f.StringSliceVar(&roles, "role", nil, "server, cache, worker, machine; may be given several times")
	f.StringSliceVar(&hosts, "host", nil, "host names and IP addresses for the HTTP API")
	f.DurationVar(&ttl, "ttl", 365*24*time.Hour, "how long it is valid")
	return c
}

// issue makes all files of one process, by name.
func issue(ca *pki.CA, req pki.Request) (map[string][]byte, error) {
	cert, key, err := ca.Issue(req, time.Now())
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{certFile: cert, keyFile: key}
	for _, r := range req.Roles {
		if r != starling.RoleServer {
			continue
		}
		if files[httpFile], files[httpKeyFile], err = ca.IssueHTTP(req, time.Now()); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func loadCA(dir string) (*pki.CA, error) {
	cert, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, fmt.Errorf("%w (make one with `starling tls ca create`)", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, err
	}
	return pki.LoadCA(cert, key)
}

// writeNew writes files that must not exist yet; keys are readable by the owner only.
func writeNew(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name := range files {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return &exitError{exitUsage, filepath.Join(dir, name) + " exists: move it away first, nothing was written"}
		}
	}
	for name, content := range files {
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, "-key.pem") || strings.HasSuffix(name, ".key") {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, mode); err != nil {
			return err
		}
	}
	return nil
}

// newGossipKey returns a 32-byte key in base64.
func newGossipKey() string {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}
