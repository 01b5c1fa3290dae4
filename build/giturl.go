package build

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/starlingdeploy/starling"
)

const maxRepoURLBytes = 2048

// scpRE matches ssh's short form, user@host:path. A host never begins with a dash, or
// ssh would take it for an option.
var scpRE = regexp.MustCompile(`^(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*:[^:]`)

// userinfoRE matches what may be a name and password in a URL.
var userinfoRE = regexp.MustCompile(`://[^/\s]*@`)

// redact removes user names and passwords of URLs from s.
func redact(s string) string { return userinfoRE.ReplaceAllString(s, "://") }

// checkRepoURL refuses everything but https, ssh (also user@host:path), git and, where
// allowed, file URLs and absolute paths.
func checkRepoURL(repo string, allowFile bool) error {
	const field = "source.git"
	bad := func(why string) error { return starling.Invalidf(field, "%.200q: %s", redact(repo), why) }
	switch {
	case repo == "" || len(repo) > maxRepoURLBytes:
		return starling.Invalidf(field, "want a URL of 1 to %d bytes", maxRepoURLBytes)
	case strings.HasPrefix(repo, "-"):
		return bad("must not begin with a dash")
	case strings.ContainsFunc(repo, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return bad("holds a control character")
	case filepath.IsAbs(repo) || strings.HasPrefix(repo, "file:///"):
		if !allowFile {
			return bad("repositories on the worker's disk are not allowed here")
		}
		return nil
	}
	if !strings.Contains(repo, "://") {
		if !scpRE.MatchString(repo) {
			return bad("use an https, ssh or git URL")
		}
		return nil
	}
	u, err := url.Parse(repo)
	if err != nil {
		return starling.Invalidf(field, "is not a valid URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "ssh" && u.Scheme != "git":
		return bad("use an https, ssh or git URL")
	case u.Host == "" || strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.User.Username(), "-"):
		return bad("has no usable host")
	}
	return nil
}
