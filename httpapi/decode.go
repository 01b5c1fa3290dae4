package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/starlingdeploy/starling"
)

// decode reads a JSON body into v. It refuses fields that v lacks and what follows the
// value, and names what is wrong. An empty body leaves v as it is.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return starling.Invalidf("body", "something follows the JSON value, at byte %d", d.InputOffset())
		}
		return nil
	}
	var (
		syntax *json.SyntaxError
		typ    *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		return starling.Invalidf("body", "is not valid JSON at byte %d: %v", syntax.Offset, syntax)
	case errors.As(err, &typ):
		field := typ.Field
		if field == "" {
			field = "body"
		}
		return starling.Invalidf(field, "a %s does not fit here", typ.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return starling.Invalidf("body", "ends in the middle of the JSON value")
	}
	// encoding/json has no type for this error.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return starling.Invalidf(strings.Trim(name, `"`), "is not a known field")
	}
	return starling.Invalidf("body", "%v", err)
}

// nameIn returns a string field of a JSON object, empty if there is none: the handler
// will say what is wrong.
func nameIn(body []byte, field string) string {
	var fields map[string]json.RawMessage
	var name string
	if json.Unmarshal(body, &fields) != nil || json.Unmarshal(fields[field], &name) != nil {
		return ""
	}
	return name
}
