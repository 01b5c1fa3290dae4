package notify

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/webhook"
)

// Target is where a sink is, with its secrets.
type Target struct {
	Kind     starling.SinkKind `json:"kind"`
	URL      string            `json:"url"`
	Template string            `json:"template,omitempty"` // a template; see starling.NewSink
	Secret   string            `json:"secret,omitempty"`
}

// maxStatusBytes is how long GitHub lets a status' description be.
const maxStatusBytes = 140

// Check refuses a target whose template gives no JSON or no URL.
func (t *Target) Check() error {
	url, body, _, err := t.form(&Message{Text: `a "text"`, Data: Data{App: "app", Deployment: "d-1", SHA: strings.Repeat("0", 40)}, git: "https://git.example/owner/repo.git"})
	if err != nil {
		return err
	}
	switch {
	case !json.Valid(body):
		return starling.WithHint("template", `as {"state": "{state}", "context": "starling/{app}", "description": "{text}"}`, "is not JSON once its words are replaced")
	case strings.ContainsAny(url, "{}"):
		return starling.WithHint("url", "use {app}, {deployment}, {sha}, {state}, {phase}, {owner}, {repo} and {project}", "has a word in braces that is not known")
	}
	return nil
}

// form writes a message for the target.
func (t *Target) form(m *Message) (to string, body []byte, h http.Header, err error) {
	h = http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Starling"}}
	words := m.words(t.Kind)
	to = replace(t.URL, words, url.PathEscape)
	switch t.Kind {
	case starling.SinkSlack:
		body, err = json.Marshal(slackOf(m))
	case starling.SinkGitHub:
		h.Set("Authorization", "Bearer "+t.Secret)
		h.Set("Accept", "application/vnd.github+json")
		body = []byte(replace(t.Template, words, jsonText))
	case starling.SinkGitLab:
		h.Set("Private-Token", t.Secret)
		body = []byte(replace(t.Template, words, jsonText))
	default:
		h.Set(webhook.HeaderID, m.ID)
		body, err = json.Marshal(m)
	}
	return to, body, h, err
}

// words are what templates may name.
func (m *Message) words(kind starling.SinkKind) map[string]string {
	project := webhook.RepoPath(m.git)
	owner, repo := "", project
	if i := strings.LastIndexByte(project, '/'); i >= 0 {
		owner, repo = project[:i], project[i+1:]
	}
	return map[string]string{
		"app": m.Data.App, "deployment": m.Data.Deployment, "sha": m.Data.SHA, "phase": string(m.phase),
		"text": clip(m.Text, maxStatusBytes), "state": stateOf(kind, m.phase),
		"owner": owner, "repo": repo, "project": project,
	}
}

// stateOf is a phase in the words of a commit status.
func stateOf(kind starling.SinkKind, p starling.Phase) string {
	gitLab := kind == starling.SinkGitLab
	switch {
	case p == starling.PhaseSucceeded:
		return "success"
	case p == starling.PhaseFailed && gitLab:
		return "failed"
	case p == starling.PhaseFailed:
		return "failure"
	case p == starling.PhaseCancelled && gitLab:
		return "canceled"
	case p == starling.PhaseCancelled:
		return "error"
	case gitLab && p != starling.PhaseQueued:
		return "running"
	}
	return "pending"
}

// replace puts escaped words in place of their names in braces, each once: what is put in
// is not looked through again.
func replace(template string, words map[string]string, escape func(string) string) string {
	var pairs []string
	for name, value := range words {
		pairs = append(pairs, "{"+name+"}", escape(value))
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// jsonText is s as it stands between the quotes of a JSON string.
func jsonText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b[1 : len(b)-1])
}

type slackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type slackBlock struct {
	Type     string      `json:"type"`
	Text     *slackText  `json:"text,omitempty"`
	Elements []slackText `json:"elements,omitempty"`
}

type slackMessage struct {
	Text   string       `json:"text"` // for clients that show no blocks
	Blocks []slackBlock `json:"blocks"`
}

func slackOf(m *Message) slackMessage {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace // https://docs.slack.dev, formatting text
	sign := map[starling.Phase]string{starling.PhaseSucceeded: ":white_check_mark: ", starling.PhaseFailed: ":x: ", starling.PhaseCancelled: ":no_entry_sign: ", starling.PhaseAwaitingApproval: ":raised_hand: "}[m.phase]
	about := m.Data.Region
	if m.Data.Deployment != "" {
		about = "`" + m.Data.Deployment + "` in " + about
	}
	if m.Data.By != "" {
		about += ", submitted by " + escape(m.Data.By)
	}
	return slackMessage{
		Text: escape(m.Text),
		Blocks: []slackBlock{
			{Type: "section", Text: &slackText{"mrkdwn", sign + escape(m.Text)}},
			{Type: "context", Elements: []slackText{{"mrkdwn", about}}},
		},
	}
}
