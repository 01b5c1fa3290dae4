// Package pki is the cluster's own certificate authority and what its
// certificates say of their holders.
//
// One CA stands for one cluster. A node's certificate holds an Ed25519 key and one
// URI SAN for each role that the node may play, in the form of a SPIFFE ID
// (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md):
//
//	spiffe://<cluster>/region/<region>/role/<role>/<name>
//
// Peers are known by this identity, never by the address or host name they were
// reached at. The CA itself signs with ECDSA P-256, because browsers, which meet it
// under the certificates of IssueHTTP, do not verify Ed25519.
//
// Below the CA may stand one Enroller for each region, whose key servers hold: it signs the machines
// that enrol there, and nothing else that it might sign is believed.
//
// Every refusal of a certificate wraps starling.ErrForbidden.
package pki
