// Package web is the page that servers show under /ui: its sources, and what the build made of them.
package web

import (
	"embed"
	"io/fs"
)

// dist is what `make web` made. Without it there is only a file that keeps the folder.
//
//go:embed all:dist
var dist embed.FS

// Page returns the built page's files, index.html at the root; nil if this program was
// built without it.
func Page() fs.FS {
	page, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil
	}
	if _, err := fs.Stat(page, "index.html"); err != nil {
		return nil
	}
	return page
}
