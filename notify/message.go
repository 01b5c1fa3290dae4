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
	if d.SHA == "" && ofCommits(k) {
		return nil // a prebuilt artifact is no commit's
	}
	m := &Message{
		ID:   fmt.Sprintf("evt_%s_%d_%d", e.Region, e.Index, e.N),
		Type: "deployment." + string(notice), Timestamp: e.At,
		Data: Data{Region: e.Region, Actor: e.Actor},
	}
	m.about(d, e.Phase)
	m.Text = m.sentence(notice)
	return m
}

// Trial returns a message by which a sink is tried. It tells how the newest of ds stands that
// the sink may be told of, so that a commit is given its true status; where there is none, it
// is about nothing, which for a sink that is told of commits is an ErrConflict.
func Trial(k *starling.Sink, region string, ds []*starling.Deployment, now time.Time) (*Message, error) {
	m := &Message{ID: fmt.Sprintf("test_%s_%d", region, now.UnixNano()), Type: "test", Timestamp: now.UTC(), Data: Data{Region: region}}
	for _, d := range ds {
		if d.Home == region && (len(k.Apps) == 0 || slices.Contains(k.Apps, d.App)) && (d.SHA != "" || !ofCommits(k)) {
			m.about(d, d.Phase)
			notice := starling.Notice(d.Phase)
			if d.Phase == starling.PhaseQueued {
				notice = starling.NoticeSubmitted
			}
			if m.Text = m.sentence(notice); !ofCommits(k) {
				m.Text = "A test. The last deployment: " + m.Text
			}
			return m, nil
		}
	}
	if ofCommits(k) {
		return nil, fmt.Errorf("%w: sink %s is told of commits, and none of its apps in region %s has deployed one: deploy one first", starling.ErrConflict, k.Name, region)
	}
	m.Text = "A test: Starling tells sink " + k.Name + " of the deployments of region " + region + " here."
	return m, nil
}

// ofCommits reports whether a sink keeps the statuses of commits.
func ofCommits(k *starling.Sink) bool {
	return k.Kind == starling.SinkGitHub || k.Kind == starling.SinkGitLab
}

// about fills in a deployment, of which a phase is told.
func (m *Message) about(d *starling.Deployment, p starling.Phase) {
	m.Data.App, m.Data.Deployment, m.Data.Phase, m.Data.SHA, m.Data.Artifact = d.App, d.ID, p, d.SHA, d.Artifact
	m.Data.By, m.Data.RollbackOf = d.Actor, d.RollbackOf
	m.git, m.phase = d.Spec.Source.Git, p
	if p.Terminal() {
		m.Data.Reason, m.Data.RevertedTo = d.Reason, d.RevertedTo
	}
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
