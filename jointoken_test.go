package starling

import (
	"fmt"
	"strings"
	"testing"
)

func TestJoinTokenText(t *testing.T) {
	k := JoinTokenText{ID: "jt-1", CA: DigestOf([]byte("ca"))}
	copy(k.Secret[:], "what nobody must see in any log.")
	text := k.Text()
	for _, s := range []string{text, " " + text + "\n"} {
		if got, err := ParseJoinToken(s); err != nil || got != k {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	if k.Hash() != DigestOf(k.Secret[:]) {
		t.Error("the hash is not the secret's")
	}
	secret := strings.Split(text, ".")[2]
	for _, s := range []string{k.String(), fmt.Sprint(k), fmt.Sprintf("%v", &k)} {
		if strings.Contains(s, secret) || strings.Contains(s, "nobody") || !strings.Contains(s, "jt-1") {
			t.Errorf("prints as %q", s)
		}
	}
	parts := strings.Split(text, ".")
	for what, bad := range map[string]string{
		"empty":         "",
		"another token": "s.abc.def.ghi",
		"cut off":       text[:len(text)-1],
		"without a CA":  strings.Join(parts[:3], "."),
		"two":           text + "." + text,
		"a short one":   strings.Join([]string{parts[0], parts[1], parts[2][:42], parts[3]}, "."),
		"loose bits":    strings.Join([]string{parts[0], parts[1], parts[2][:42] + "_", parts[3]}, "."),
		"no ID":         strings.Join([]string{parts[0], "", parts[2], parts[3]}, "."),
		"upper case":    strings.Join([]string{parts[0], "JT", parts[2], parts[3]}, "."),
		"no hex":        strings.Join([]string{parts[0], parts[1], parts[2], strings.Repeat("x", 64)}, "."),
	} {
		_, err := ParseJoinToken(bad)
		if !IsInvalid(err) || strings.Contains(fmt.Sprint(err), parts[2][:20]) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(JoinTokenText{ID: "a"}.Text())
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseJoinToken(s)
		if err == nil && !strings.EqualFold(k.Text(), strings.TrimSpace(s)) {
			t.Errorf("%q reads as %q", s, k.Text())
		}
	})
}

func TestSlotsAreTakenAndFreed(t *testing.T) {
	var s Slots
	for want := range MaxCellMachines {
		if got := s.Free(); got != want {
			t.Fatalf("free: %d, want %d", got, want)
		}
		s.Set(want)
	}
	if got := s.Free(); got != -1 {
		t.Errorf("a full cell has slot %d", got)
	}
	s.Clear(700)
	s.Clear(-1)
	s.Clear(MaxCellMachines + 100)
	if got := s.Free(); got != 700 || s.Has(700) {
		t.Errorf("free: %d", got)
	}
}
