package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// openOutput opens what a build left at output, relative to its checkout. Symlinks are
// followed as long as they stay in the checkout. A single file becomes a directory
// that holds nothing else, made in the workspace. Call it when the build has ended.
func openOutput(ws workspace, output string) (root *os.Root, err error) {
	if output != "." {
		if err := starling.CheckPath(output); err != nil {
			return nil, err
		}
	}
	src, err := os.OpenRoot(ws.src())
	if err != nil {
		return nil, fmt.Errorf("opening the checkout: %w", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	info, err := src.Stat(output)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the build left no output at %s", output)
	case err != nil: // a link that leads out, or an unreadable directory
		return nil, fmt.Errorf("the build's output at %s cannot be used: %w", output, err)
	case info.IsDir():
		root, err := src.OpenRoot(output)
		if err != nil {
			return nil, fmt.Errorf("the build's output at %s cannot be used: %w", output, err)
		}
		return root, nil
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("the build's output at %s is neither a directory nor a regular file", output)
	}
	return singleFile(src, output, filepath.Join(ws.dir, "single"))
}

// singleFile links a file into a new directory and opens that.
func singleFile(src *os.Root, name, dir string) (*os.Root, error) {
	f, err := src.Open(name)
	if err != nil {
		return nil, fmt.Errorf("the build's output at %s cannot be used: %w", name, err)
	}
	defer f.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	// Linking the open file, not its name, follows symlinks exactly as Open did.
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()),
		unix.AT_FDCWD, filepath.Join(dir, path.Base(name)), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return nil, fmt.Errorf("output: linking %s: %w", name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return root, nil
}

// packed is an artifact that the caches hold.
type packed struct {
	digest   starling.Digest
	manifest *starling.Manifest
	newBytes int64
	commits  *starling.CommitLog
}

// pack cuts the output into chunks, uploads those that the caches lack while cutting,
// and at last the signed manifest. list learns what is up. An *uploadError is about the caches, any other error
// about the output.
func (w *Worker) pack(ctx context.Context, ws workspace, output string, list *draft) (_ *packed, err error) {
	root, err := openOutput(ws, output)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	up := &uploader{ctx: ctx, blobs: w.cfg.Blobs, span: w.uploadFor, draft: list, log: w.log,
		seen: make(map[starling.Digest]struct{})}
	m, err := artifact.Pack(ctx, root, up.add)
	if err == nil {
		err = up.flush()
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("packing %s: %w", output, err)
	case len(m.Files) == 0:
		return nil, fmt.Errorf("the build left no output at %s: the directory is empty", output)
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(encoded) > starling.MaxManifestBytes {
		return nil, fmt.Errorf("the manifest of %s is %d bytes long, more than %d: put fewer or shorter names in it", output, len(encoded), starling.MaxManifestBytes)
	}
	envelope, err := w.cfg.Sign(encoded)
	if err != nil {
		return nil, fmt.Errorf("signing the manifest: %w", err)
	}
	p := &packed{digest: starling.DigestOf(encoded), manifest: m, newBytes: up.newBytes.Load()}
	return p, up.call("store the manifest", func(ctx context.Context) error {
		return w.cfg.Blobs.PutManifest(ctx, p.digest, envelope)
	})
}
