package starling

import (
	"reflect"
	"strings"
	"testing"
)

// What an engineer can write into an app or a submission has a hint for when it is wrong.
func TestEveryFieldHasAHint(t *testing.T) {
	known := map[string]bool{}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, prefix string) {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "-" {
				continue
			}
			known[prefix+name] = true
			if hints()[prefix+name] == "" {
				t.Errorf("%s has no row in hints()", prefix+name)
			}
			f := typ.Field(i).Type
			if f.Kind() == reflect.Pointer || f.Kind() == reflect.Slice {
				f = f.Elem()
			}
			if f.Kind() == reflect.Struct && f.PkgPath() == typ.PkgPath() {
				walk(f, prefix+name+".")
			}
		}
	}
	walk(reflect.TypeFor[App](), "")
	walk(reflect.TypeFor[Submission](), "")
	for field := range hints() {
		if !known[field] {
			t.Errorf("hints() has a row for %s, which is no field", field)
		}
	}
	if got := HintOf("deploy.strategy.waves[1]"); got != HintOf("deploy.strategy.waves") || got == "" {
		t.Errorf("an element of a list: %q", got)
	}
	if got := HintOf("build.env.GOFLAGS"); got != HintOf("build.env") || got == "" {
		t.Errorf("a name in a map: %q", got)
	}
	if got := HintOf("limit"); got != "" {
		t.Errorf("a field of neither: %q", got)
	}
}
