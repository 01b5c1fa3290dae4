package main

import (
	"os"
	"strings"
	"testing"
)

// manual is one section of docs/operators.md, whose commands a test executes.
type manual struct {
	t        *testing.T
	section  string
	commands map[string]bool // false: not executed yet
}

// readManual finds a section. Every command line in it must have been executed when the
// test ends, so that the text cannot promise what does not work.
func readManual(t *testing.T, section string) *manual {
	t.Helper()
	b, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(b), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("docs/operators.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	m := &manual{t: t, section: section, commands: map[string]bool{}}
	for line := range strings.Lines(text) {
		if command := strings.TrimSpace(line); strings.HasPrefix(line, "    ") && strings.HasPrefix(command, "starling ") {
			m.commands[command] = false
		}
	}
	t.Cleanup(func() {
		for command, executed := range m.commands {
			if !executed && !t.Failed() {
				t.Errorf("docs/operators.md, %q: nobody has tried %q", section, command)
			}
		}
	})
	return m
}

// run executes a command of the section, as it stands there but for the names that with
// replaces, and returns what it prints.
func (m *manual) run(command string, with ...string) string {
	m.t.Helper()
	out, errs, code := m.try(command, with...)
	if code != 0 {
		m.t.Fatalf("%s: exit %d: %s", command, code, errs)
	}
	return out
}

func (m *manual) try(command string, with ...string) (out, errs string, code int) {
	m.t.Helper()
	if _, ok := m.commands[command]; !ok {
		m.t.Fatalf("docs/operators.md, %q, does not say %q", m.section, command)
	}
	m.commands[command] = true
	return cli(m.t, strings.Fields(strings.NewReplacer(with...).Replace(command))[1:]...)
}
