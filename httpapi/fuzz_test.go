package httpapi

import (
	"testing"

	"github.com/starlingdeploy/starling"
)

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "{}", `{"name":"x"}`, `{"nam":1}`, `{"deploy":{"deadline":"1h"}}`, "[", `{"name":"x"}{`, "\x00", `{"build":{"env":{"a":1}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var app starling.App
		if err := decode(b, &app); err != nil && !starling.IsInvalid(err) {
			t.Errorf("%q gives an error that names no field: %v", b, err)
		}
		nameIn(b, "name")
	})
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"1.2", "0", "18446744073709551615.2147483647", "1.-1", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition("after", s)
		if err != nil {
			return
		}
		if again, err := parsePosition("after", p.String()); err != nil || again != p {
			t.Errorf("%q becomes %v, then %v, %v", s, p, again, err)
		}
	})
}
