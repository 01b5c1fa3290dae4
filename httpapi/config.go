package httpapi

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/starlingdeploy/starling"
)

// Bounds.
const (
	maxJSONBytes       = 1 << 20                              // of a request's body, where nothing else is said
	maxRegisterBytes   = starling.MaxManifestBytes/3*4 + 4096 // a manifest in base64
	maxMissingDigests  = 4096                                 // in one question
	maxIdempotencyKey  = 128                                  // bytes
	maxDeploymentsList = 1000
	defDeploymentsList = 100
	maxStreams         = 1024 // event and log streams open at once
	maxEventsBatch     = 256
	maxSnapshotBytes   = 16 << 30
	maxForwards        = 3 // servers that pass a request on, one to the next
	maxJoinAddrs       = 64

	bodyWithin      = 30 * time.Second // of a small body
	largeBodyWithin = 10 * time.Minute // of a manifest
	maxWait         = time.Minute      // of a blocking query
	defWait         = 30 * time.Second
	keepAliveEvery  = 15 * time.Second // comment on an idle event stream
	writeWithin     = 15 * time.Second // one write to a stream
	catchUpWithin   = 2 * time.Second  // of this server with the events that a watcher has seen
	defPatience     = 10 * time.Second
	lookAgain       = 50 * time.Millisecond // for the place of a request whose server lost the lead
	tokenLag        = 250 * time.Millisecond
	maxPushes       = 16 // requests of webhooks being read or served at once, by one server
	pushesPerSecond = 20 // that one server takes
	maxPushBurst    = 100
	logPeek         = 100 * time.Millisecond // for more of a log that is not followed
)

// Headers of the API.
const (
	HeaderIndex     = "X-Starling-Index" // index that an answer shows, for ?index=
	headerKey       = "Idempotency-Key"
	HeaderForwarded = "X-Starling-Forwarded" // how often a request was passed on
)

// Config says what the API stands on.
type Config struct {
	Backend    Backend
	ACLEnabled bool         // false: everybody may do everything, as "anonymous"
	Metrics    http.Handler // GET /v1/metrics; nil: not found
	Ready      func() error // why this server cannot take its full part; nil: it always can
	Version    string
	Page       fs.FS        // shown under /ui, index.html at its root; nil: there is none
	Logger     *slog.Logger // nil: discard
	// Patience is how long a change or a consistent read is tried again while the leader
	// changes; default 10 s.
	Patience time.Duration
}

type api struct {
	Config
	mux     *mux
	huma    huma.API
	streams chan struct{} // a place for each open stream
	pushes  *turnstile    // of webhooks' requests
	fanout  *fanout
}

// New returns the handler of everything that a server's HTTP port answers.
func New(conf Config) http.Handler {
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	if conf.Patience == 0 {
		conf.Patience = defPatience
	}
	a := &api{Config: conf, mux: newMux(), streams: make(chan struct{}, maxStreams), pushes: newTurnstile(), fanout: newFanout(conf.Backend, conf.Logger)}
	a.huma = humago.New(a.mux, a.humaConfig())
	a.registerApps()
	a.registerDeployments()
	a.registerPlans()
	a.registerHistory()
	a.registerArtifacts()
	a.registerCluster()
	a.registerNodes()
	a.registerCells()
	a.registerJoining()
	a.registerACL()
	a.registerOperator()
	a.registerWebhooks()
	a.registerSinks()
	a.registerOpen()
	a.serveOpenAPI()
	a.registerPage()
	a.mux.HandleFunc("/", a.fallback)

	guard := http.NewCrossOriginProtection() // pages of other sites must not act on a server without tokens
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, &Problem{
			Status: http.StatusForbidden, Kind: "forbidden", Detail: "a page of another origin sent this request",
			Hint: "use a client that is no browser",
		})
	}))
	return guard.Handler(a.mux)
}

func (a *api) humaConfig() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Starling", Version: a.Version,
				Description: "A commit goes in; it runs on the whole fleet, or everybody knows why not.",
			},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}},
			},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{plainProblem},
	}
}

// serveOpenAPI serves the description of what has been registered so far.
func (a *api) serveOpenAPI() {
	doc := a.huma.OpenAPI()
	delete(doc.Components.Schemas.Map(), "ErrorModel") // every error is a Problem
	b, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("httpapi: describe the API: %v", err)) // plain data: unreachable
	}
	a.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(b) // the caller is gone: nobody is left to tell
	})
}
