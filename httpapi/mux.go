package httpapi

import (
	"net/http"
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

// fallback answers what no operation does.
func (a *api) fallback(w http.ResponseWriter, r *http.Request) {
	if allowed := a.mux.allowed(r); len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeProblem(w, &Problem{
			Status: http.StatusMethodNotAllowed, Kind: "method",
			Detail: r.Method + " is not for " + r.URL.Path, Hint: "use " + strings.Join(allowed, " or "),
		})
		return
	}
	notFound(w, r)
}
