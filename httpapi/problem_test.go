package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
)

// described is what a test reads of the API's own description.
type described struct {
	Paths map[string]map[string]struct {
		OperationID string `json:"operationId"`
		Parameters  []struct {
			Name, In string
			Schema   struct{ Type string }
		}
		RequestBody *struct {
			Content map[string]struct {
				Schema struct {
					Ref string `json:"$ref"`
				}
			}
		} `json:"requestBody"`
	}
	Components struct {
		Schemas map[string]struct {
			Properties map[string]struct {
				Type any // a name or several
			}
		}
	}
}

func describe(t *testing.T, srv *httptest.Server) described {
	t.Helper()
	_, body := request(t, srv, "GET", "/openapi.json", "")
	var d described
	if err := json.Unmarshal([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// fillPath names nothing that exists, but what is well-formed.
func fillPath(pattern string) string {
	digest := starling.DigestOf([]byte("x")).String()
	path := strings.NewReplacer("{app}", "hello", "{id}", "d-none", "{digest}", digest).Replace(pattern)
	for strings.Contains(path, "{") {
		i, j := strings.Index(path, "{"), strings.Index(path, "}")
		path = path[:i] + "none" + path[j+1:]
	}
	return path
}

// Whatever is wrong with a request, on whichever route, the answer says where and what to do.
func TestEveryRouteNamesWhatIsWrong(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b, Metrics: http.NotFoundHandler()})
	doc := describe(t, srv)
	bodies, params := 0, 0
	ask := func(what, method, path, body string) Problem {
		t.Helper()
		res, answer := request(t, srv, method, path, body)
		p := problemIn(t, res, answer)
		if p.Status != http.StatusBadRequest || p.Kind != "invalid" || p.Hint == "" {
			t.Errorf("%s %s, %s: %s", method, path, what, answer)
		}
		return p
	}
	for _, pattern := range slices.Sorted(maps.Keys(doc.Paths)) {
		for method, op := range doc.Paths[pattern] {
			method, path := strings.ToUpper(method), fillPath(pattern)
			for _, param := range op.Parameters {
				if param.In == "query" && (param.Schema.Type == "integer" || param.Schema.Type == "boolean") {
					params++
					if p := ask(param.Name, method, path+"?"+param.Name+"=many", ""); p.Field != param.Name || p.In != "query" || p.Pointer != "" {
						t.Errorf("%s %s: %s is not named in %+v", method, pattern, param.Name, p)
					}
				}
			}
			if op.RequestBody == nil || op.RequestBody.Content["application/json"].Schema.Ref == "" {
				continue
			}
			bodies++
			schema := doc.Components.Schemas[strings.TrimPrefix(op.RequestBody.Content["application/json"].Schema.Ref, "#/components/schemas/")]
			for body, pointer := range map[string]string{
				`{"x`: "#", `name=x`: "#", `{} {}`: "#", `[]`: "#", `7`: "#", `{"no~such/field":1}`: "#/no~0such~1field",
			} {
				if p := ask(body, method, path, body); p.Pointer != pointer || p.In != "body" {
					t.Errorf("%s %s with %s: %+v", method, pattern, body, p)
				}
			}
			for name, property := range schema.Properties {
				if name == "$schema" {
					continue
				}
				wrong := `{"an":"object"}`
				if kind := fmt.Sprint(property.Type); kind == "object" || kind == "<nil>" { // nil: a reference, to one
					wrong = `7`
				}
				body := fmt.Sprintf(`{%q:%s}`, name, wrong)
				if p := ask(body, method, path, body); !strings.HasPrefix(p.Pointer, "#/"+name) || p.Field == "body" {
					t.Errorf("%s %s with %s: %+v", method, pattern, body, p)
				}
			}
		}
	}
	if bodies < 10 || params < 10 {
		t.Errorf("%d bodies and %d parameters were tried", bodies, params)
	}
}

// A route that does not exist, and a method that a path lacks, are problems with a hint too;
// so is what does not exist.
func TestEveryRouteHasHints(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	for pattern, ops := range describe(t, srv).Paths {
		path := fillPath(pattern)
		res, body := request(t, srv, "PATCH", path, "")
		if p := problemIn(t, res, body); p.Status != http.StatusMethodNotAllowed || p.Hint == "" || res.Header.Get("Allow") == "" {
			t.Errorf("PATCH %s: %s", path, body)
		}
		res, body = request(t, srv, "GET", path+"/no/such/thing", "")
		if p := problemIn(t, res, body); p.Status != http.StatusNotFound || p.Hint == "" {
			t.Errorf("GET %s/no/such/thing: %s", path, body)
		}
		for method := range ops {
			if pattern == "/v1/events" || pattern == "/v1/operator/snapshot" {
				continue // streams
			}
			res, body := request(t, srv, strings.ToUpper(method), path, "")
			if res.StatusCode >= 400 && problemIn(t, res, body).Hint == "" {
				t.Errorf("%s %s: no hint in %s", method, path, body)
			}
		}
	}
}

func TestWhatIsWrongInASpec(t *testing.T) {
	b := newBackend("r1")
	fixture(t, b)
	srv := serve(t, Config{Backend: b})
	tests := []struct{ body, pointer, detail, hint string }{
		{`{"name":"x","deploy":{"strategy":{"wavs":["100%"]}}}`, "#/deploy/strategy/wavs", "is not a known field", "did you mean waves?"},
		{`{"name":"x","deploy":{"strategy":{"waves":["1%",2]}}}`, "#/deploy/strategy/waves/1", "a number does not fit here: want a string", "percentages"},
		{`{"name":"x","deploy":{"strategy":{"waves":["50%","10%"]}}}`, "#/deploy/strategy/waves", "does not rise", "percentages that rise"},
		{`{"name":"x","deploy":{"health":{"interval":"soon","tcp":"x"}}}`, "#/deploy/health/interval", "soon", "a duration"},
		{`{"name":"x","deploy":{"keep":1.5}}`, "#/deploy/keep", "want a whole number", "1 to 20"},
		{`{"name":"x","build":{"command":"make"}}`, "#/build/command", "want a list", "a program and its arguments"},
		{`{"name":"x","build":{"env":{"A":1},"command":["x"]}}`, "#/build/env/A", "want a string", "names and values"},
		{`{"name":"x","sauce":{}}`, "#/sauce", "is not a known field", "did you mean source?"},
	}
	for _, tc := range tests {
		res, body := request(t, srv, "POST", "/v1/apps", tc.body)
		p := problemIn(t, res, body)
		if p.Pointer != tc.pointer || !strings.Contains(p.Detail, tc.detail) || !strings.Contains(p.Hint, tc.hint) {
			t.Errorf("%s:\ngot %s", tc.body, body)
		}
	}
	long := fmt.Sprintf(`{%q:1}`, strings.Repeat("x", 100_000))
	if res, body := request(t, srv, "POST", "/v1/apps", long); len(body) > 2000 || problemIn(t, res, body).In != "body" {
		t.Errorf("a long name: %d bytes of answer", len(body))
	}
}
