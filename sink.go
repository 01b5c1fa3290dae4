package starling

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"time"
)

// SinkKind says in whose form a sink is told of deployments.
type SinkKind string

// The kinds of sinks.
const (
	SinkWebhook SinkKind = "webhook" // JSON, signed as Standard Webhooks are
	SinkSlack   SinkKind = "slack"   // text and blocks, for Slack and what is compatible
	SinkGitHub  SinkKind = "github"  // a commit status
	SinkGitLab  SinkKind = "gitlab"  // a commit status
)

// Notice is what a sink can be told of.
type Notice string

// The notices: a deployment's phases, and what else becomes of it.
const (
	NoticeSubmitted Notice = "submitted"
	NoticePaused    Notice = "paused"
	NoticeResumed   Notice = "resumed"
	NoticeReverted  Notice = "reverted" // it failed, and its app went back to the release before
)

// Notices lists all that a sink can be told of.
func Notices() []Notice {
	return []Notice{
		NoticeSubmitted, Notice(PhaseBuilding), Notice(PhaseReplicating), Notice(PhaseStaging), Notice(PhaseAwaitingApproval),
		Notice(PhaseRollingOut), NoticePaused, NoticeResumed, Notice(PhaseSucceeded), Notice(PhaseFailed), NoticeReverted, Notice(PhaseCancelled),
	}
}

// Sink is told of what becomes of the deployments of apps that are homed in its region.
type Sink struct {
	Name      string       `json:"name"`
	Kind      SinkKind     `json:"kind"`
	To        string       `json:"to"` // its URL without what may be secret in it
	Template  string       `json:"template,omitempty"`
	Notices   []Notice     `json:"notices"`
	Apps      []string     `json:"apps,omitempty"` // only these; empty: all
	CreatedAt time.Time    `json:"created_at"`
	Actor     string       `json:"actor,omitempty"`
	Made      uint64       `json:"made"`             // Raft index at which it was made
	Sealed    []byte       `json:"sealed,omitempty"` // its URL and secret, for the region's servers only
	Progress  SinkProgress `json:"progress"`
}

// SinkProgress is how far a sink has been told.
type SinkProgress struct {
	// Index and N are the place of the last event that it was told of, or that was given up.
	Index       uint64    `json:"index"`
	N           int       `json:"n"`
	Delivered   uint64    `json:"delivered"`
	Dropped     uint64    `json:"dropped"` // given up
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastError   string    `json:"last_error,omitempty"` // of the newest try that failed
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

// SinkStatus is a sink as the region's leader sees it.
type SinkStatus struct {
	Sink
	Pending  int       `json:"pending"`            // events that it is still to be told of
	Attempt  int       `json:"attempt,omitempty"`  // tries of the first of them that failed
	NextTry  time.Time `json:"next_try,omitzero"`  // of it
	Waiting  string    `json:"waiting,omitempty"`  // its ID
	Unsealed string    `json:"unsealed,omitempty"` // why its secret cannot be read; empty: it can
}

// NewSink is what an operator asks for.
type NewSink struct {
	Name     string   `json:"name" doc:"lower-case letters, digits and dashes, 63 at most"`
	Kind     SinkKind `json:"kind" doc:"webhook, slack, github or gitlab"`
	URL      string   `json:"url,omitempty" doc:"an https URL; {app}, {deployment}, {sha}, {state}, {phase}, {owner}, {repo} and {project} in it are replaced; leave it out for github.com and gitlab.com"`
	Template string   `json:"template,omitempty" doc:"a JSON text for github and gitlab, in which the same words and {text} are replaced; leave it out for a commit status"`
	Notices  []string `json:"notices,omitempty" doc:"submitted, building, replicating, staging, awaiting_approval, rolling_out, paused, resumed, succeeded, failed, reverted, cancelled; leave it out for a fitting choice"`
	Apps     []string `json:"apps,omitempty" doc:"names of apps; leave it out for all that are homed in the region"`
	Secret   string   `json:"secret,omitempty" doc:"what signs a webhook (leave it out to have one made), or a token of GitHub or GitLab; 8 to 1024 bytes"`
}

// IssuedSink shows a sink's secret, this once.
type IssuedSink struct {
	Sink
	Secret string `json:"secret,omitempty"` // empty: the operator gave it
}

// SinkTrial is what became of a message that a sink was sent to try it.
type SinkTrial struct {
	ID    string `json:"id"`
	Text  string `json:"text" doc:"What it was told"`
	Error string `json:"error,omitempty" doc:"Why it did not take it; empty: it did"`
}

// Check refuses what is no sink, after SetDefaults.
func (n *NewSink) Check() error {
	if err := CheckName("name", n.Name); err != nil {
		return err
	}
	switch n.Kind {
	case SinkWebhook, SinkSlack, SinkGitHub, SinkGitLab:
	default:
		return Invalidf("kind", "%.40q: use webhook, slack, github or gitlab", string(n.Kind))
	}
	u, err := url.Parse(strings.NewReplacer("{", "", "}", "").Replace(n.URL))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return Invalidf("url", "is not a URL with a scheme and a host")
	case u.User != nil:
		return WithHint("url", "give the secret as secret", "has a user or password in it")
	case len(n.URL) > MaxSinkURLBytes:
		return Invalidf("url", "%d bytes, more than %d", len(n.URL), MaxSinkURLBytes)
	case strings.ContainsAny(u.Host, "{}") || strings.Contains(strings.SplitN(n.URL, "/", 4)[2], "{"):
		return Invalidf("url", "its host must not depend on a deployment")
	case len(n.Template) > MaxSinkBodyBytes:
		return Invalidf("template", "%d bytes, more than %d", len(n.Template), MaxSinkBodyBytes)
	case n.Template != "" && (n.Kind == SinkWebhook || n.Kind == SinkSlack):
		return Invalidf("template", "a %s has a form of its own", n.Kind)
	case n.Secret != "" && n.Kind == SinkSlack:
		return WithHint("secret", "leave it out: Slack's secret is in the URL", "a slack sink signs nothing")
	case n.Secret == "" && (n.Kind == SinkGitHub || n.Kind == SinkGitLab):
		return WithHint("secret", "make a token there that may write commit statuses", "is missing: commit statuses need a token")
	case n.Secret != "" && (len(n.Secret) < 8 || len(n.Secret) > MaxHookSecretBytes || strings.ContainsAny(n.Secret, "\r\n")):
		return Invalidf("secret", "must be one line of 8 to %d bytes", MaxHookSecretBytes)
	case len(n.Notices) > len(Notices()):
		return Invalidf("notices", "%d of them, more than there are", len(n.Notices))
	}
	for _, name := range n.Notices {
		if !slices.Contains(Notices(), Notice(name)) {
			return Invalidf("notices", "%.40q is no notice", name)
		}
	}
	return checkApps(n.Apps)
}

// Forms of commit statuses, where an operator gives none.
const (
	gitHubStatusURL = "https://api.github.com/repos/{owner}/{repo}/statuses/{sha}"
	gitLabStatusURL = "https://gitlab.com/api/v4/projects/{project}/statuses/{sha}"
	gitHubStatus    = `{"state": "{state}", "context": "starling/{app}", "description": "{text}"}`
	gitLabStatus    = `{"state": "{state}", "name": "starling/{app}", "description": "{text}"}`
)

// SetDefaults fills what the operator left out.
func (n *NewSink) SetDefaults() {
	var notices []Notice
	switch n.Kind {
	case SinkGitHub, SinkGitLab:
		if n.Kind == SinkGitHub {
			n.URL, n.Template = cmp.Or(n.URL, gitHubStatusURL), cmp.Or(n.Template, gitHubStatus)
		} else {
			n.URL, n.Template = cmp.Or(n.URL, gitLabStatusURL), cmp.Or(n.Template, gitLabStatus)
		}
		notices = []Notice{NoticeSubmitted, Notice(PhaseRollingOut), Notice(PhaseSucceeded), Notice(PhaseFailed), Notice(PhaseCancelled)}
	case SinkSlack:
		notices = []Notice{Notice(PhaseAwaitingApproval), Notice(PhaseSucceeded), Notice(PhaseFailed), Notice(PhaseCancelled)}
	default:
		notices = []Notice{NoticeSubmitted, Notice(PhaseAwaitingApproval), Notice(PhaseSucceeded), Notice(PhaseFailed), Notice(PhaseCancelled)}
	}
	if len(n.Notices) == 0 {
		for _, name := range notices {
			n.Notices = append(n.Notices, string(name))
		}
	}
}

// Shown is the URL without what may be secret: all of a Slack URL but its host, and any
// query.
func (n *NewSink) Shown() string {
	before, rest, _ := strings.Cut(n.URL, "://")
	rest, _, _ = strings.Cut(rest, "?")
	if n.Kind == SinkSlack {
		rest, _, _ = strings.Cut(rest, "/")
		rest += "/…"
	}
	return before + "://" + rest
}
