package history

import (
	"fmt"
	"strings"

	"github.com/starlingdeploy/starling"
)

// Kind is what a client asks for.
type Kind string

// The kinds.
const (
	Submit   Kind = "submit"
	Rollback Kind = "rollback"
	Cancel   Kind = "cancel"
	Lease    Kind = "lease" // of any app
	Complete Kind = "complete"
	Fail     Kind = "fail"
	Show     Kind = "show" // consistent reads, from here on
	Goal     Kind = "goal"
	List     Kind = "list"
)

// keyed reports whether such a call carries an idempotency key.
func (k Kind) keyed() bool { return k == Submit || k == Rollback }

// Call is one call of a client. A deployment is named by the idempotency key that its
// submitter gave it, whatever becomes of the answer.
type Call struct {
	Kind     Kind
	App      string
	Key      string // of the deployment concerned
	Worker   string // Lease
	Token    uint64 // Complete, Fail: the lease
	Artifact starling.Digest
}

// Verdict is how a call ended.
type Verdict string

// The verdicts.
const (
	Done    Verdict = "done"
	Refused Verdict = "refused" // as impossible in the present state
	Fenced  Verdict = "fenced"
	Missing Verdict = "missing" // no such thing
	Unknown Verdict = "unknown" // it may have happened, or happen yet
)

// Answer is what a client saw.
type Answer struct {
	Verdict    Verdict
	Deployment *starling.Deployment // Submit, Rollback, Cancel, Show
	Goal       *starling.Goal       // Goal
	GoalKey    string               // key of the deployment that the goal names
	Key        string               // Lease: of the deployment, "": none
	App        string               // Lease: of that deployment
	Token      uint64               // Lease
	Attempt    int                  // Lease
	Keys       []string             // List, newest first
}

func describe(in, out any) string {
	c, a := in.(Call), out.(Answer)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s%s", c.Kind, c.App, c.Key, c.Worker)
	if c.Token != 0 {
		fmt.Fprintf(&b, " lease %d", c.Token)
	}
	fmt.Fprintf(&b, " -> %s", a.Verdict)
	switch {
	case a.Deployment != nil:
		d := a.Deployment
		fmt.Fprintf(&b, " %s gen %s lease %d attempt %d %s", d.Phase, d.Generation, d.Lease, d.Attempt, d.Artifact.Short())
		if d.Fence != nil {
			fmt.Fprintf(&b, " fence %+v", *d.Fence)
		}
	case a.Goal != nil:
		fmt.Fprintf(&b, " gen %s of %s %s", a.Goal.Generation, a.GoalKey, a.Goal.Artifact.Short())
	case c.Kind == Lease && a.Key != "":
		fmt.Fprintf(&b, " %s lease %d attempt %d", a.Key, a.Token, a.Attempt)
	case c.Kind == List:
		fmt.Fprintf(&b, " %v", a.Keys)
	}
	return b.String()
}
