package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Message is one event as sinks are told of it. A sink that is told twice sees the same ID.
type Message struct {
	ID        string         `json:"id"`
	Type      string         `json:"type"` // deployment. and the notice
	Timestamp time.Time      `json:"timestamp"`
	Text      string         `json:"text"` // for people
	Data      Data           `json:"data"`
	git       string         // of the app's source
	phase     starling.Phase // of which the notice is
}

// Data is what a message tells of the deployment, as it stands when it is told.
type Data struct {
	Region     string          `json:"region"` // the app's home
	App        string          `json:"app"`
	Deployment string          `json:"deployment"`
	Phase      starling.Phase  `json:"phase"`
	SHA        string          `json:"sha,omitempty"`
	Artifact   starling.Digest `json:"artifact,omitzero"`
	Actor      string          `json:"actor,omitempty"`  // who did what is told
	By         string          `json:"by,omitempty"`     // who submitted the deployment
	Reason     string          `json:"reason,omitempty"` // why it failed or was cancelled
	RevertedTo starling.Digest `json:"reverted_to,omitzero"`
	RollbackOf string          `json:"rollback_of,omitempty"`
}

// NoticeOf returns what an event tells, empty if nothing that sinks could be told.
func NoticeOf(e *starling.Event) starling.Notice {
	switch e.Type {
	case raftfsm.EventDeploymentQueued:
		return starling.NoticeSubmitted
	case raftfsm.EventDeploymentPaused:
		return starling.NoticePaused
	case raftfsm.EventDeploymentResumed:
		return starling.NoticeResumed
	case raftfsm.EventDeploymentPhase:
		if n := starling.Notice(e.Phase); slices.Contains(starling.Notices(), n) {
			return n
		}
	}
	return ""
}

// For returns what a sink is to be told of an event about d, nil if nothing.
func For(k *starling.Sink, e *starling.Event, d *starling.Deployment) *Message {
	notice := NoticeOf(e)
	if notice == "" || d == nil || len(k.Apps) > 0 && !slices.Contains(k.Apps, e.App) {
		return nil
	}
	reverted := notice == starling.Notice(starling.PhaseFailed) && !d.RevertedTo.IsZero()
	if !slices.Contains(k.Notices, notice) && !(reverted && slices.Contains(k.Notices, starling.NoticeReverted)) {
		return nil
	}
	if d.SHA == "" && (k.Kind == starling.SinkGitHub || k.Kind == starling.SinkGitLab) {
		return nil // a prebuilt artifact is no commit's
	}
	m := &Message{
		ID:   fmt.Sprintf("evt_%s_%d_%d", e.Region, e.Index, e.N),
		Type: "deployment." + string(notice), Timestamp: e.At,
		Data: Data{
			Region: e.Region, App: d.App, Deployment: d.ID, Phase: e.Phase, SHA: d.SHA, Artifact: d.Artifact,
			Actor: e.Actor, By: d.Actor, RollbackOf: d.RollbackOf,
		},
		git: d.Spec.Source.Git, phase: e.Phase,
	}
	if e.Phase.Terminal() {
		m.Data.Reason, m.Data.RevertedTo = d.Reason, d.RevertedTo
	}
	m.Text = m.sentence(notice)
	return m
}

// sentence tells it to people.
func (m *Message) sentence(notice starling.Notice) string {
	what := map[starling.Notice]string{
		starling.NoticeSubmitted:                        "was submitted",
		starling.Notice(starling.PhaseBuilding):         "is being built",
		starling.Notice(starling.PhaseReplicating):      "goes to the regions",
		starling.Notice(starling.PhaseStaging):          "goes to the machines",
		starling.Notice(starling.PhaseAwaitingApproval): "awaits approval",
		starling.Notice(starling.PhaseRollingOut):       "is rolling out",
		starling.NoticePaused:                           "was paused",
		starling.NoticeResumed:                          "goes on",
		starling.Notice(starling.PhaseSucceeded):        "succeeded",
		starling.Notice(starling.PhaseFailed):           "failed",
		starling.Notice(starling.PhaseCancelled):        "was cancelled",
	}[notice]
	text := m.Data.App
	if m.Data.SHA != "" {
		text += " " + m.Data.SHA[:min(12, len(m.Data.SHA))]
	}
	if m.Data.RollbackOf != "" {
		text += " (rollback)"
	}
	text += " " + what
	if !m.Data.RevertedTo.IsZero() {
		text += " and was reverted"
	}
	if m.Data.Reason != "" {
		text += ": " + clip(strings.TrimSpace(m.Data.Reason), maxReasonBytes)
	}
	return text
}

// maxReasonBytes is how much of a reason a text has.
const maxReasonBytes = 400

// clip shortens s to at most n bytes without cutting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}
