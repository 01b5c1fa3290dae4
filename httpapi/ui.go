package httpapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

// pagePolicy lets the page talk to this server alone.
const pagePolicy = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageFile is one file of the page, ready to be sent.
type pageFile struct {
	kind          string // content type
	plain, zipped []byte // zipped: nil where it would be no smaller
	forGood       bool   // its name has the digest of its content
}

// page serves the page of package web: every path below /ui/ that is no file shows the
// page, which reads the path itself. It needs no token: what it shows does.
type page struct {
	source fs.FS // nil: this program was built without one
	files  func() (map[string]pageFile, error)
}

func newPage(source fs.FS) *page {
	return &page{source: source, files: sync.OnceValues(func() (map[string]pageFile, error) { return readPage(source) })}
}

func readPage(source fs.FS) (map[string]pageFile, error) {
	files := map[string]pageFile{}
	err := fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		plain, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		f := pageFile{kind: mime.TypeByExtension(path.Ext(name)), plain: plain, forGood: strings.HasPrefix(name, "assets/")}
		if f.kind == "" {
			f.kind = "application/octet-stream"
		}
		if f.zipped, err = zip(plain); err != nil {
			return err
		}
		files[name] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the page: %w", err)
	}
	return files, nil
}

func zip(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(plain); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() >= len(plain) {
		return nil, nil
	}
	return b.Bytes(), nil
}

// registerPage adds the page, which is no part of the API.
func (a *api) registerPage() {
	p := newPage(a.Page)
	a.mux.HandleFunc("GET /ui/", func(w http.ResponseWriter, r *http.Request) { a.servePage(p, w, r) })
	a.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/html") {
			notFound(w, r)
			return
		}
		http.Redirect(w, r, "/ui/", http.StatusFound)
	})
}

func (a *api) servePage(p *page, w http.ResponseWriter, r *http.Request) {
	if p.source == nil {
		writeProblem(w, &Problem{
			Status: http.StatusNotFound, Kind: "not_found", Detail: "this program was built without the page",
			Hint: "build it with npm installed: make build; the API and the command line do all that the page does",
		})
		return
	}
	files, err := p.files()
	if err != nil {
		writeProblem(w, a.problem(route{id: "page"}, err))
		return
	}
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/ui")
	f, ok := files[strings.TrimPrefix(name, "/")]
	switch {
	case !ok && strings.HasPrefix(name, "/assets/"):
		notFound(w, r)
		return
	case !ok:
		f = files["index.html"]
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	if f.forGood {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Vary", "Accept-Encoding")
	body := f.plain
	if f.zipped != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		body = f.zipped
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(body) // the caller is gone: nobody is left to tell
}
