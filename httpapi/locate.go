package httpapi

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/starlingdeploy/starling"
)

// param is a parameter of a route.
type param struct{ in, doc string }

// paramsOf returns the parameters that huma reads into a handler's input.
func paramsOf(t reflect.Type) map[string]param {
	out := map[string]param{}
	for _, f := range reflect.VisibleFields(t) {
		for _, in := range []string{"path", "query", "header"} {
			if name, ok := f.Tag.Lookup(in); ok {
				out[name] = param{in, f.Tag.Get("doc")}
			}
		}
	}
	return out
}

// locate completes a problem with where its field is, and with a hint if it has none.
func (r route) locate(p *Problem) {
	if p.Field != "" && p.In == "" {
		switch known, ok := r.params[p.Field]; {
		case ok:
			p.In = known.in
			p.Hint = firstOf(p.Hint, known.doc)
		case p.Field == "consistent" || p.Field == "stale":
			p.In = "query"
		case r.body != nil:
			p.In, p.Pointer = "body", pointer(p.Field)
			p.Hint = firstOf(p.Hint, docOf(reflect.TypeOf(r.body), p.Field), starling.HintOf(p.Field))
		case r.media == "application/json":
			p.In, p.Pointer = "body", pointer(p.Field)
			p.Hint = firstOf(p.Hint, starling.HintOf(p.Field))
		case r.raw || r.stream:
			p.In = "body"
		}
	}
	p.Hint = firstOf(p.Hint, hintOperation(r.id))
}

func hintOperation(id string) string {
	return fmt.Sprintf("operation %s of /openapi.json says what it takes", id)
}

func firstOf(hints ...string) string {
	for _, h := range hints {
		if h != "" {
			return h
		}
	}
	return ""
}

var elementRE = regexp.MustCompile(`\[(\d+)\]`)

// pointer writes a dotted path as the URI fragment form of a JSON pointer (RFC 6901,
// section 6). "body" is the whole.
func pointer(field string) string {
	if field == "body" {
		return "#"
	}
	path := strings.NewReplacer("~", "~0", "/", "~1", "%", "%25", "#", "%23", `"`, "%22", " ", "%20").Replace(field)
	return "#/" + strings.ReplaceAll(elementRE.ReplaceAllString(path, ".$1"), ".", "/")
}

// docOf returns what a body's type says of a field, empty if nothing.
func docOf(t reflect.Type, path string) string {
	for {
		name, rest, more := strings.Cut(elementRE.ReplaceAllString(path, ""), ".")
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return ""
		}
		f, ok := fieldsOf(t)[name]
		switch {
		case !ok:
			return ""
		case !more:
			return f.Tag.Get("doc")
		}
		t, path = f.Type, rest
	}
}
