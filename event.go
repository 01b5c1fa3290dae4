package starling

import "time"

// Event is one committed change, for watchers. Index and N together order the
// events of a region without a gap in meaning: the same on each of its servers.
type Event struct {
	Index      uint64    `json:"index"` // Raft index in the region that committed it
	N          int       `json:"n"`     // position within that index
	Region     string    `json:"region"`
	At         time.Time `json:"at"`
	Type       string    `json:"type"` // noun.verb, e.g. deployment.phase
	App        string    `json:"app,omitempty"`
	Deployment string    `json:"deployment,omitempty"`
	Phase      Phase     `json:"phase,omitempty"`
	Actor      string    `json:"actor,omitempty"`
	Detail     string    `json:"detail,omitempty"`
}
