package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/starlingdeploy/starling"
)

// load reads what earlier runs have left.
func (a *Agent) load() error {
	entries, err := os.ReadDir(filepath.Join(a.conf.DataDir, appsDir))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || starling.CheckName("app", e.Name()) != nil {
			continue
		}
		if err := a.app(e.Name()).load(); err != nil {
			return fmt.Errorf("load app %s: %w", e.Name(), err)
		}
	}
	return nil
}

// load reads the record and opens the releases that it names.
func (p *app) load() error {
	rec, err := loadRecord(p.dir)
	switch {
	case errors.Is(err, starling.ErrCorrupt):
		// Only a broken disk does that. The servers know the goal; caches and peers the rest.
		p.log.Error("the record is set aside; this machine begins anew", "error", err)
		if err := os.Rename(p.dir.join(recordName), p.dir.join(recordName+".corrupt")); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		p.rec = rec
	}
	if p.rec.Goal != nil {
		p.choose()
	}
	known := map[string]bool{}
	for _, e := range slices.Clone(p.rec.Releases) {
		known[filepath.Base(p.dir.release(e.Artifact))] = true
		if e.Complete {
			p.openComplete(e.Artifact)
		}
	}
	return p.sweep(known)
}

// openComplete opens a release that the record calls complete. One that is of no
// use will be fetched again if it is wanted.
func (p *app) openComplete(d starling.Digest) {
	rel, err := openRelease(p.dir, d)
	if err == nil && !rel.tree.Finished() {
		err = errors.Join(starling.ErrCorrupt, rel.close())
	}
	switch {
	case err == nil:
		p.releases[d] = rel
		p.a.catalog.add(rel)
	case errors.Is(err, starling.ErrNotFound), errors.Is(err, starling.ErrCorrupt), starling.IsInvalid(err):
		p.log.Error("a release on disk is of no use", "artifact", d.Short(), "error", err)
		p.rec.release(d).Complete = false
		if r := p.rec.Running; r != nil && r.Artifact == d {
			p.rec.Running = nil
		}
		p.version++
	default: // it may run nevertheless
		p.log.Error("a release cannot be read, nor served to others", "artifact", d.Short(), "error", err)
	}
}

// sweep removes what the record does not know.
func (p *app) sweep(known map[string]bool) error {
	entries, err := os.ReadDir(p.dir.join(releasesDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if !known[e.Name()] {
			path := p.dir.join(releasesDir, e.Name())
			p.a.run.work(func() {
				if err := removeTree(path); err != nil {
					p.log.Warn("leftovers cannot be removed", "path", path, "error", err)
				}
			})
		}
	}
	return nil
}
