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
}
