package main

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	ticketFile      = "ticket.json" // in data_dir; it holds a secret
	maxTicketBytes  = 64 << 10
	cellKeyBytes    = 32
	cellKeyInfoForm = "starling/1 cell %s/%s epoch %d"
	secretInfoForm  = "starling/1 secrets of %s"
)

// cellKey derives the gossip key of a cell from that of its region (HKDF-SHA256, RFC 5869),
// so that no secret is in Raft. An epoch of it says nothing of the others.
func cellKey(regionKey []byte, region, cell string, epoch uint64) ([]byte, error) {
	return hkdf.Key(sha256.New, regionKey, nil, fmt.Sprintf(cellKeyInfoForm, region, cell, epoch), cellKeyBytes)
}

// secretKey derives from a region's gossip key what its servers seal webhooks' secrets with,
// nil without one.
func secretKey(regionKey []byte, region string) ([]byte, error) {
	if len(regionKey) == 0 {
		return nil, nil
	}
	return hkdf.Key(sha256.New, regionKey, nil, fmt.Sprintf(secretInfoForm, region), cellKeyBytes)
}

// readTicket returns a machine's kept place, with which it comes back to its cell though no
// server answers. fs.ErrNotExist: there is none yet.
func readTicket(dataDir string) (rpc.Ticket, error) {
	var t rpc.Ticket
	name := filepath.Join(dataDir, ticketFile)
	f, err := os.Open(name)
	if err != nil {
		return t, err
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxTicketBytes))
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err == nil {
		err = errors.Join(starling.CheckName("cell", t.Cell), starling.CheckName("region", t.Region))
	}
	if err != nil {
		return rpc.Ticket{}, fmt.Errorf("%s (delete it to have it made anew): %w", name, err)
	}
	return t, nil
}

func writeTicket(dataDir string, t rpc.Ticket) error {
	b, err := json.Marshal(t)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(dataDir, ticketFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the ticket: %w", err)
	}
	return nil
}

// cellDir is where the gossip of one cell keeps its keys and peers.
func cellDir(dataDir, cell string) string { return filepath.Join(dataDir, "cells", cell) }

// forgetCells removes what is kept of other cells than one.
func forgetCells(dataDir, but string) error {
	all, err := os.ReadDir(filepath.Join(dataDir, "cells"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range all {
		if e.Name() != but {
			err = errors.Join(err, os.RemoveAll(cellDir(dataDir, e.Name())))
		}
	}
	return err
}
