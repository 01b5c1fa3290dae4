package httpapi

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
)

// misfit finds the first part of a JSON value, in order of names, that a Go type has no
// place for, and names it by its whole path. encoding/json tells only an unknown field's
// own name, and of a value that a type refuses not even that. It returns nil if all fits.
func misfit(t reflect.Type, raw json.RawMessage, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case string(raw) == "null":
		return nil
	case decodesItself(t):
	case t.Kind() == reflect.Struct:
		var parts map[string]json.RawMessage
		if json.Unmarshal(raw, &parts) == nil {
			return misfitIn(t, parts, path)
		}
	case t.Kind() == reflect.Map:
		var parts map[string]json.RawMessage
		if json.Unmarshal(raw, &parts) == nil {
			for _, name := range slices.Sorted(maps.Keys(parts)) {
				if err := misfit(t.Elem(), parts[name], under(path, name)); err != nil {
					return err
				}
			}
			return nil
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		var parts []json.RawMessage
		if json.Unmarshal(raw, &parts) == nil {
			for i, part := range parts {
				if err := misfit(t.Elem(), part, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return refusal(json.Unmarshal(raw, reflect.New(t).Interface()), path)
}

// misfitIn looks at the fields of an object.
func misfitIn(t reflect.Type, parts map[string]json.RawMessage, path string) error {
	fields := fieldsOf(t)
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		f, ok := fields[name]
		if !ok {
			for known, kf := range fields { // encoding/json takes any case
				if strings.EqualFold(known, name) {
					name, f, ok = known, kf, true
				}
			}
		}
		if !ok {
			names := slices.Sorted(maps.Keys(fields))
			hint := "known here: " + strings.Join(names, ", ")
			if like := closest(name, names); like != "" {
				hint = "did you mean " + like + "? " + hint
			}
			return starling.WithHint(under(path, fmt.Sprintf("%.80s", name)), hint, "is not a known field")
		}
		if err := misfit(f.Type, parts[name], under(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// refusal says why a value does not fit.
func refusal(err error, path string) error {
	if path == "" {
		path = "body"
	}
	var typ *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &typ):
		return starling.Invalidf(path, "a %.40s does not fit here: want %s", typ.Value, wanted(typ.Type))
	}
	return starling.Invalidf(path, "%v", err)
}

// wanted names a type as JSON does.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string in base64"
		}
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Float64, reflect.Float32:
		return "a number"
	default:
		return "a whole number"
	}
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// fieldsOf returns a struct's fields by their names in JSON, those of embedded ones included.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	out := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() || f.Anonymous && name == "":
		case name == "":
			out[f.Name] = f
		default:
			out[name] = f
		}
	}
	return out
}

func under(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// closest returns the one of names that name is most likely a slip of, empty if none is near.
func closest(name string, names []string) string {
	best, beyond := "", 2+len(name)/4
	for _, n := range names {
		if d := distance(strings.ToLower(name), n); d < beyond {
			best, beyond = n, d
		}
	}
	return best
}

// maxSlipBytes is the longest name that closest compares.
const maxSlipBytes = 64

// distance is Levenshtein's: how many bytes must be inserted, removed or replaced to make b of a.
func distance(a, b string) int {
	if len(a) > maxSlipBytes || len(b) > maxSlipBytes {
		return maxSlipBytes
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
