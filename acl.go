package starling

import (
	"slices"
	"time"
)

// ACLRole is what the holder of a token may do. Each role may do what the ones before it may.
type ACLRole string

// The roles of tokens.
const (
	ACLViewer   ACLRole = "viewer"   // read everything but tokens
	ACLDeployer ACLRole = "deployer" // apply apps, push artifacts, submit, cancel, roll back
	ACLApprover ACLRole = "approver" // approve, pause, resume
	ACLOperator ACLRole = "operator" // tokens, servers, regions, raft
)

var aclOrder = []ACLRole{ACLViewer, ACLDeployer, ACLApprover, ACLOperator}

// Valid reports whether r is a known role.
func (r ACLRole) Valid() bool { return slices.Contains(aclOrder, r) }

// Allows reports whether r may do what need may.
func (r ACLRole) Allows(need ACLRole) bool {
	return r.Valid() && need.Valid() && slices.Index(aclOrder, r) >= slices.Index(aclOrder, need)
}

// Token is the record of a bearer token. Only the SHA-256 of its secret is kept.
type Token struct {
	ID        string    `json:"id"` // public, names the token in audit records
	Name      string    `json:"name"`
	Role      ACLRole   `json:"role"`
	Region    string    `json:"region"` // where it was made
	Hash      Digest    `json:"hash"`   // of the secret; never leaves the servers
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Revoked   bool      `json:"revoked"`
}
