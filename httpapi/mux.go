package httpapi

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// mux is http.ServeMux, which cannot tell /artifacts/chunks/{digest} from
// /artifacts/{digest}/manifest: one pattern takes both and looks at the words.
type mux struct {
	*http.ServeMux
	chunk, manifest http.HandlerFunc
}

const (
	pathChunk    = "/v1/artifacts/chunks/{digest}"
	pathManifest = "/v1/artifacts/{digest}/manifest"
)

func newMux() *mux {
	m := &mux{ServeMux: http.NewServeMux()}
	m.ServeMux.HandleFunc("GET /v1/artifacts/{first}/{second}", func(w http.ResponseWriter, r *http.Request) {
		first, second := r.PathValue("first"), r.PathValue("second")
		switch {
		case first == "chunks":
			r.SetPathValue("digest", second)
			m.chunk(w, r)
		case second == "manifest":
			r.SetPathValue("digest", first)
			m.manifest(w, r)
		default:
			notFound(w, r)
		}
	})
	return m
}

// HandleFunc implements humago.Mux.
func (m *mux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	switch pattern {
	case "GET " + pathChunk:
		m.chunk = h
	case "GET " + pathManifest:
		m.manifest = h
	default:
		m.ServeMux.HandleFunc(pattern, h)
	}
}

// allowed returns the methods that a path knows.
func (m *mux) allowed(r *http.Request) []string {
	var out []string
	probe := r.Clone(r.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe.Method = method
		if _, pattern := m.Handler(probe); pattern != "" && pattern != "/" {
			out = append(out, method)
		}
	}
	return out
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, &Problem{
		Status: http.StatusNotFound, Kind: "not_found", Detail: r.URL.Path + " is no part of the API",
		Hint: "see /openapi.json",
	})
}

// fallback answers what no operation does: mistakes under /v1, and the page elsewhere.
func (a *api) fallback(w http.ResponseWriter, r *http.Request) {
	if allowed := a.mux.allowed(r); len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, &Problem{
			Status: http.StatusMethodNotAllowed, Kind: "method",
			Detail: r.Method + " is not for " + r.URL.Path, Hint: "use " + strings.Join(allowed, " or "),
		})
		return
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !get || r.URL.Path == "/v1" || strings.HasPrefix(r.URL.Path, "/v1/") {
		notFound(w, r)
		return
	}
	a.page(w, r)
}

// page serves the web page. Addresses without a file suffix are places within it.
func (a *api) page(w http.ResponseWriter, r *http.Request) {
	if a.Web == nil {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("The web page is not built into this program (make web). The API is at /v1, described at /openapi.json.\n"))
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
	if name == "" {
		name = "index.html"
	}
	if info, err := fs.Stat(a.Web, name); err != nil || info.IsDir() {
		if path.Ext(name) != "" {
			notFound(w, r)
			return
		}
		name = "index.html"
	}
	http.ServeFileFS(w, r, a.Web, name)
}
