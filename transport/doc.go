// Package transport carries every stream between the processes of a cluster over one
// UDP port each, by QUIC (RFC 9000).
//
// A connection is mutually authenticated by certificates of package pki. Every stream
// begins with one byte, its kind, and the table in kind.go says who may open which
// kind of stream to whom; both sides hold to it. Beyond that byte a stream is a plain
// net.Conn, so hashicorp/raft, net/http and the blob protocol need know nothing of QUIC.
//
// The dialling side keeps one connection per address for Raft, one for control and
// swarm, and one or more for blobs, each made when first needed: a reader that falls behind
// fills the flow-control window of its connection, and must not stop Raft's heartbeats
// with it. Accepted connections carry only the streams of the far side.
//
// On a new connection the accepting side, once it has verified the certificate and
// found room, opens a unidirectional stream with one byte, its version of this
// protocol. The dialling side waits for it: so a refusal is an error of Dial, with the reason, and
// not of some later Read.
//
// Long-lived goroutines, all ended by Endpoint.Close: one that accepts connections; one
// per accepted connection that accepts its streams; one that closes idle
// dialled connections. Short-lived: one per stream until its kind is read, one per dial
// attempt, each bounded in number and time.
package transport
