package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/client"
	"golang.org/x/sync/errgroup"
)

func artifactCommand() *cobra.Command {
	return group("artifact", "Built trees of files", artifactPushCommand(), artifactPullCommand(),
		apiCommand("list", "List artifacts, newest first", exactArgs(0),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, _ []string) error {
				list, err := c.Artifacts(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(cmd, list, "DIGEST\tAPP\tSHA\tBYTES\tFILES\tCHUNKS\tREGION\tBY", func(row func(...any)) {
					for _, x := range list {
						row(x.Digest, x.App, shortSHA(x.SHA), humanBytes(x.Bytes), x.Files, x.Chunks, x.Region, x.Actor)
					}
				})
			}),
		apiCommand("inspect DIGEST", "List the files of an artifact", exactArgs(1),
			func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
				_, m, err := fetchManifest(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return a.show(cmd, m, "MODE\tBYTES\tKIND\tPATH", func(row func(...any)) {
					for _, f := range m.Files {
						name := f.Path
						if f.Kind == starling.KindSymlink {
							name += " -> " + f.Link
						}
						row(fs.FileMode(f.Mode), f.Size, f.Kind, name)
					}
				})
			}))
}

// Bounds of a push and a pull: chunks asked about at once, transfers under way.
const (
	pushBatch     = 32
	pushUploads   = 4
	pullDownloads = 8
)

func artifactPushCommand() *cobra.Command {
	var app string
	c := apiCommand("push PATH", "Store a folder as an artifact; only what the caches lack is sent", exactArgs(1),
		func(cmd *cobra.Command, c *client.Client, a *apiFlags, args []string) error {
			record, sent, err := push(cmd.Context(), c, app, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), record)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%d files, %s in %d chunks, %s sent\n",
				record.Digest, record.Files, humanBytes(record.Bytes), record.Chunks, humanBytes(sent))
			return err
		})
	c.Flags().StringVar(&app, "app", "", "the app it belongs to, for the list")
	return c
}

// push packs the folder at path, uploads the chunks that the caches lack and registers the artifact.
func push(ctx context.Context, c *client.Client, app, path string) (*starling.Artifact, int64, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, 0, &exitError{exitUsage, "artifact: " + err.Error()}
	}
	defer root.Close()
	p := &pusher{api: c, batch: map[starling.Digest][]byte{}}
	m, err := artifact.Pack(ctx, root, func(piece artifact.Piece) error { return p.add(ctx, piece) })
	if err == nil {
		err = p.flush(ctx, p.batch)
	}
	if err != nil {
		return nil, p.sent.Load(), err
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, p.sent.Load(), err
	}
	record, err := c.RegisterArtifact(ctx, app, encoded)
	return record, p.sent.Load(), err
}

// pusher gathers chunks into batches and uploads those that the caches lack.
type pusher struct {
	api  *client.Client
	sent atomic.Int64 // bytes

	mu    sync.Mutex
	batch map[starling.Digest][]byte
}

// add takes a piece; whoever fills the batch uploads it.
func (p *pusher) add(ctx context.Context, piece artifact.Piece) error {
	p.mu.Lock()
	p.batch[piece.Digest] = bytes.Clone(piece.Data)
	if len(p.batch) < pushBatch {
		p.mu.Unlock()
		return nil
	}
	full := p.batch
	p.batch = map[starling.Digest][]byte{}
	p.mu.Unlock()
	return p.flush(ctx, full)
}

func (p *pusher) flush(ctx context.Context, batch map[starling.Digest][]byte) error {
	if len(batch) == 0 {
		return nil
	}
	missing, err := p.api.MissingChunks(ctx, slices.Collect(maps.Keys(batch)))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pushUploads)
	for _, d := range missing {
		data, ok := batch[d]
		if !ok {
			return fmt.Errorf("the server asks for %s, which it was not told of", d)
		}
		g.Go(func() error {
			p.sent.Add(int64(len(data)))
			return p.api.PutChunk(ctx, d, data)
		})
	}
	return g.Wait()
}

func artifactPullCommand() *cobra.Command {
	return apiCommand("pull DIGEST DIR", "Write an artifact's files to a new folder", exactArgs(2),
		func(cmd *cobra.Command, c *client.Client, _ *apiFlags, args []string) error {
			d, m, err := fetchManifest(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := pull(cmd.Context(), c, d, m, args[1]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s in %s\n", d, m, args[1])
			return err
		})
}

// pull lays the artifact out beside dir and moves it there when it is whole.
func pull(ctx context.Context, c *client.Client, d starling.Digest, m *starling.Manifest, dir string) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		return &exitError{exitUsage, dir + " exists: name a new folder"}
	}
	partial := dir + ".partial"
	if err := os.Mkdir(partial, 0o755); err != nil {
		return &exitError{exitUsage, err.Error()}
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	root, err := os.OpenRoot(partial)
	if err != nil {
		return err
	}
	defer root.Close()
	tree, err := artifact.CreateTree(root, d, m)
	if err != nil {
		return err
	}
	defer tree.Close()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pullDownloads)
	for i, chunk := range m.Chunks {
		g.Go(func() error {
			data, err := c.Chunk(gctx, chunk.Digest)
			if err != nil {
				return err
			}
			return tree.WriteChunk(i, data)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := tree.Finish(ctx); err != nil {
		return err
	}
	return os.Rename(filepath.Join(partial, artifact.FilesDir), dir)
}

// fetchManifest gets and checks the manifest of the artifact whose digest is text.
func fetchManifest(ctx context.Context, c *client.Client, text string) (starling.Digest, *starling.Manifest, error) {
	d, err := starling.ParseDigest(text)
	if err != nil || d.IsZero() {
		return d, nil, &exitError{exitUsage, fmt.Sprintf("%q is no digest", text)}
	}
	b, err := c.Manifest(ctx, d)
	if err != nil {
		return d, nil, err
	}
	if starling.DigestOf(b) != d {
		return d, nil, fmt.Errorf("manifest of %s: %w", d, starling.ErrCorrupt)
	}
	m, err := starling.DecodeManifest(b)
	return d, m, err
}
