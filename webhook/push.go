package webhook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
)

// Push is a branch's new head.
type Push struct {
	Repos   []string // URLs of the repository
	Branch  string
	Default string // the repository's default branch; empty: not told
	SHA     string
	By      string // who pushed, as the sender says
}

// payload is what is read of the three forms.
type payload struct {
	Ref        string          `json:"ref"`
	After      string          `json:"after"`
	SHA        string          `json:"sha"` // generic
	Deleted    bool            `json:"deleted"`
	Repository json.RawMessage `json:"repository"` // generic: a URL
	Project    struct {        // GitLab
		HTTP          string `json:"git_http_url"`
		SSH           string `json:"git_ssh_url"`
		Web           string `json:"web_url"`
		DefaultBranch string `json:"default_branch"`
	} `json:"project"`
	Pusher   struct{ Name string } `json:"pusher"`
	UserName string                `json:"user_username"` // GitLab
}

// gitHubRepo is the repository of GitHub's payload.
type gitHubRepo struct {
	Clone         string `json:"clone_url"`
	SSH           string `json:"ssh_url"`
	HTML          string `json:"html_url"`
	DefaultBranch string `json:"default_branch"`
}

// ParsePush reads a verified request. ignored says why there is nothing to deploy: a ping,
// a tag, a deleted branch. An error is about the body.
func ParsePush(kind starling.WebhookKind, h http.Header, body []byte) (push *Push, ignored string, err error) {
	if ignored = otherEvent(kind, h); ignored != "" {
		return nil, ignored, nil
	}
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, "", starling.WithHint("body", "set the webhook's content type to application/json", "is no push as JSON: %v", err)
	}
	push = &Push{SHA: p.After, By: p.Pusher.Name}
	switch kind {
	case starling.WebhookGitHub:
		var repo gitHubRepo
		if err := json.Unmarshal(p.Repository, &repo); err != nil {
			return nil, "", starling.Invalidf("repository", "is no repository: %v", err)
		}
		push.Repos, push.Default = []string{repo.Clone, repo.SSH, repo.HTML}, repo.DefaultBranch
	case starling.WebhookGitLab:
		push.Repos, push.Default, push.By = []string{p.Project.HTTP, p.Project.SSH, p.Project.Web}, p.Project.DefaultBranch, p.UserName
	default:
		var repo string
		if err := json.Unmarshal(p.Repository, &repo); err != nil {
			return nil, "", starling.WithHint("repository", "the repository's URL, as in the app's source.git", "is missing, or no string")
		}
		push.Repos, push.SHA = []string{repo}, p.SHA
	}
	branch, isBranch := strings.CutPrefix(p.Ref, "refs/heads/")
	switch {
	case strings.HasPrefix(p.Ref, "refs/tags/"):
		return nil, fmt.Sprintf("%.200q is a tag: only branches are deployed", p.Ref), nil
	case !isBranch || branch == "":
		return nil, "", starling.WithHint("ref", "refs/heads/ and the branch's name", "%.200q is no branch", p.Ref)
	case p.Deleted || strings.Trim(push.SHA, "0") == "" && push.SHA != "":
		return nil, fmt.Sprintf("branch %.200q was deleted", branch), nil
	}
	push.Branch = branch
	return push, "", starling.CheckSHA(push.SHA)
}

// otherEvent says what a request is that is no push, empty if it is one.
func otherEvent(kind starling.WebhookKind, h http.Header) string {
	var got, want string
	switch kind {
	case starling.WebhookGitHub:
		got, want = h.Get("X-GitHub-Event"), "push"
	case starling.WebhookGitLab:
		got, want = h.Get("X-Gitlab-Event"), "Push Hook"
	}
	if got != want {
		return fmt.Sprintf("%.80q is no event that deploys: only %q is", got, want)
	}
	return ""
}

// Concerns reports whether an app is to run what was pushed. One without a branch follows
// the repository's default branch, where the sender tells it.
func (p *Push) Concerns(app *starling.App) bool {
	branch := app.Source.Branch
	if branch == "" {
		branch = p.Default
	}
	return branch != "" && branch == p.Branch &&
		slices.ContainsFunc(p.Repos, func(url string) bool { return SameRepo(url, app.Source.Git) })
}

// SameRepo reports whether two URLs name one repository: scheme, user, port, case, a
// trailing slash and ".git" make no difference, nor does git's short form user@host:path.
func SameRepo(a, b string) bool {
	one, other := repoOf(a), repoOf(b)
	return one != "" && one == other
}

// repoOf returns host/path of a URL in lower case; empty if it has no path.
func repoOf(s string) string {
	host, path := splitURL(s)
	if path == "" {
		return ""
	}
	return strings.ToLower(host + "/" + path)
}

// RepoPath returns the path of a repository's URL without slashes around it and ".git", as
// GitHub and GitLab name projects.
func RepoPath(s string) string {
	_, path := splitURL(s)
	return path
}

func splitURL(s string) (host, path string) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(s), "://")
	if !ok {
		scheme, rest = "", scheme
		if i := strings.IndexByte(rest, ':'); i > 0 && !strings.Contains(rest[:i], "/") {
			rest = rest[:i] + "/" + rest[i+1:] // user@host:path
		}
	}
	rest, _, _ = strings.Cut(rest, "?")
	host, path, _ = strings.Cut(rest, "/")
	if scheme == "file" || host == "" { // a path on the worker
		host, path = "", rest
	}
	host = host[strings.LastIndexByte(host, '@')+1:]
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		host = host[:i]
	}
	return host, strings.TrimSuffix(strings.Trim(path, "/"), ".git")
}
