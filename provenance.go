package starling

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Origin says from where a submission came.
type Origin struct {
	Addr  string `json:"addr,omitempty"`  // of the caller, as the server saw it that was called
	Agent string `json:"agent,omitempty"` // the caller's User-Agent: its own claim
	Token string `json:"token,omitempty"` // ID of the token; its name is the actor's
}

// Bounds of what is told of a submission and of a build.
const (
	MaxOriginBytes   = 256 // of each field
	MaxCommits       = 100
	MaxCommitBytes   = 100  // of a subject, and of an author
	MaxCommitsBytes  = 4096 // of all subjects and authors together
	CommitShortBytes = 12   // of a commit's name in a list
)

// Plain returns o within its bounds, in text that is safe to print.
func (o Origin) Plain() Origin {
	return Origin{textWithin(o.Addr, MaxOriginBytes), textWithin(o.Agent, MaxOriginBytes), textWithin(o.Token, MaxOriginBytes)}
}

// CommitLog lists what a build's commit brings on top of the release that ran when it began.
type CommitLog struct {
	Since   string   `json:"since"` // that release's commit
	Commits []Commit `json:"commits,omitempty"`
	// Omitted are older ones, beyond the bounds.
	Omitted int `json:"omitted,omitempty"`
	// Removed counts commits of Since that are not in the new one: history was rewritten, or
	// an older commit is built.
	Removed int    `json:"removed,omitempty"`
	Problem string `json:"problem,omitempty"` // why nothing is known
}

// Commit is one commit of a list, newest first.
type Commit struct {
	SHA     string    `json:"sha"` // CommitShortBytes of it
	Author  string    `json:"author"`
	At      time.Time `json:"at"`
	Subject string    `json:"subject"`
}

// Plain returns l within its bounds, in text that is safe to print.
func (l CommitLog) Plain() CommitLog {
	l.Since, l.Problem = textWithin(l.Since, 64), textWithin(l.Problem, MaxOriginBytes)
	l.Omitted, l.Removed = max(0, l.Omitted), max(0, l.Removed)
	all := l.Commits
	l.Commits = nil
	size := 0
	for i, c := range all {
		c.SHA, c.Author, c.Subject = textWithin(c.SHA, CommitShortBytes), textWithin(c.Author, MaxCommitBytes), textWithin(c.Subject, MaxCommitBytes)
		size += len(c.Author) + len(c.Subject)
		if i >= MaxCommits || size > MaxCommitsBytes {
			l.Omitted += len(all) - i
			break
		}
		l.Commits = append(l.Commits, c)
	}
	return l
}

// textWithin cuts s to n bytes, without what is no character or moves a terminal's cursor.
func textWithin(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	for len(s) > n {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}

// Built says by which build an artifact came to be.
type Built struct {
	Deployment string    `json:"deployment"`
	Worker     string    `json:"worker"` // and its slot
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`
}

// Signature is a verified signature of an artifact's manifest.
type Signature struct {
	By    string    `json:"by"`  // the identity in the certificate
	Key   string    `json:"key"` // SHA-256 of the public key
	At    time.Time `json:"at"`  // as the signer said
	Roles []Role    `json:"roles"`
}

// Provenance says where a deployment's artifact came from.
type Provenance struct {
	Deployment string     `json:"deployment"`
	App        string     `json:"app"`
	SHA        string     `json:"sha,omitempty"`
	Artifact   *Artifact  `json:"artifact,omitempty"` // with its build
	Cached     bool       `json:"cached"`             // it was built for an earlier deployment, or pushed
	Command    []string   `json:"command,omitempty"`  // that built it
	Signature  *Signature `json:"signature,omitempty"`
	// Problem says why there is no signature: the manifest is gone, say, or is not what was signed.
	Problem string `json:"problem,omitempty"`
}

// HistoryEntry is one deployment of an app: who, what, when, from where, and what it changed.
type HistoryEntry struct {
	ID         string        `json:"id"`
	Actor      string        `json:"actor"`
	From       *Origin       `json:"from,omitempty"`
	CreatedAt  time.Time     `json:"created_at"`
	EndedAt    time.Time     `json:"ended_at,omitzero"`
	Phase      Phase         `json:"phase"`
	Reason     string        `json:"reason,omitempty"`
	SHA        string        `json:"sha,omitempty"`
	Artifact   Digest        `json:"artifact,omitzero"`
	Generation Generation    `json:"generation"`
	RollbackOf string        `json:"rollback_of,omitempty"`
	Revision   uint64        `json:"revision"` // of the app's spec
	Approval   *Approval     `json:"approval,omitempty"`
	Changes    []FieldChange `json:"changes"` // of the spec since the deployment before
	Commits    *CommitLog    `json:"commits,omitempty"`
}

// DeploymentDiff is what lies between two deployments of an app.
type DeploymentDiff struct {
	App     string        `json:"app"`
	From    string        `json:"from"` // deployment
	To      string        `json:"to"`
	SHAs    [2]string     `json:"shas"`
	Changes []FieldChange `json:"changes"`
	// Commits are those that the builds after From and up to To brought, newest first.
	Commits []Commit `json:"commits"`
	// Gaps are deployments in between whose commits are not all known.
	Gaps []string `json:"gaps,omitempty"`
}

// ReleaseStatus is a release with what a rollback to it would take, where that was asked for.
type ReleaseStatus struct {
	Release
	Readiness *Readiness `json:"readiness,omitempty"`
}

// Readiness says what a rollback to a release would take.
type Readiness struct {
	Current  bool            `json:"current"` // it is what the goal in force names
	Machines int             `json:"machines"`
	Held     int             `json:"held"`    // of Machines: those that hold all of it
	Share    float64         `json:"share"`   // Held of Machines; 1 if there are none
	Regions  []RegionHolding `json:"regions"` // by name
	// RollbackMS is how long it would take; 0: nothing to judge by. Basis says by what.
	RollbackMS int64  `json:"rollback_ms"`
	Basis      string `json:"basis"`
}

// RegionHolding is a region's part in a release's readiness.
type RegionHolding struct {
	Name     string  `json:"name"`
	Machines int     `json:"machines"` // -1: it did not answer
	Held     int     `json:"held"`
	Share    float64 `json:"share"`
	Placed   bool    `json:"placed"` // its caches hold it
}
