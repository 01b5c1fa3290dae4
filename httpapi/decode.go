package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"

	"github.com/starlingdeploy/starling"
)

const hintJSON = "send one JSON value (RFC 8259), as in -d '{\"app\": \"hello\"}'"

// decode reads a JSON body into v. It refuses fields that v lacks and what follows the
// value, and names what is wrong, where. An empty body leaves v as it is.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return starling.WithHint("body", hintJSON, "something follows the JSON value, at byte %d", d.InputOffset())
		}
		return nil
	}
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return starling.WithHint("body", hintJSON, "is not valid JSON at byte %d: %v", syntax.Offset, syntax)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return starling.WithHint("body", hintJSON, "ends in the middle of the JSON value")
	}
	if err := misfit(reflect.TypeOf(v), body, ""); err != nil {
		return err
	}
	return starling.WithHint("body", hintJSON, "%v", err)
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
