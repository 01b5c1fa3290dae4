package starling

import "time"

// Release is one goal that an app's machines were, or are, to run in full.
type Release struct {
	App        string     `json:"app"`
	Home       string     `json:"home"`
	Generation Generation `json:"generation"`
	Deployment string     `json:"deployment"`
	SHA        string     `json:"sha,omitempty"`
	Artifact   Digest     `json:"artifact"`
	Origin     string     `json:"origin"`
	Deploy     DeploySpec `json:"deploy"`
	At         time.Time  `json:"at"`
}

// Mirror is a batch of records that another region keeps as read-only copies: all
// of Home's that changed after the batch before, up to Index.
type Mirror struct {
	Home        string        `json:"home"`
	Index       uint64        `json:"index"`
	Apps        []*App        `json:"apps,omitempty"`
	Deployments []*Deployment `json:"deployments,omitempty"`
	Goals       []*Goal       `json:"goals,omitempty"`
	Artifacts   []*Artifact   `json:"artifacts,omitempty"`
	Releases    []*Release    `json:"releases,omitempty"`
	Tokens      []*Token      `json:"tokens,omitempty"`
	Takeovers   []*Takeover   `json:"takeovers,omitempty"`
	// Floor is the index at which Home was last restored: what had not ended before it has
	// ended, or is forgotten. 0: never, or known already.
	Floor uint64 `json:"floor,omitempty"`
}

// Moves reports whether the batch tells of apps that have another home than before,
// which programs of level 1 do not understand.
func (m *Mirror) Moves() bool {
	if len(m.Takeovers) > 0 {
		return true
	}
	for _, a := range m.Apps {
		if a != nil && a.Epoch > 1 {
			return true
		}
	}
	for _, d := range m.Deployments {
		if d != nil && d.Epoch > 1 {
			return true
		}
	}
	for _, g := range m.Goals {
		if g != nil && g.Generation.Epoch > 1 {
			return true
		}
	}
	return false
}
