// Package rpc is the internal protocol between the processes of Starling: JSON
// over HTTP/1.1 on QUIC streams. It holds the routes, the messages and a typed
// client; package control serves them.
//
// Every server answers. Routes marked "leader" are passed on by a follower to its
// leader, with the caller's verified identity in HeaderPeer, which only servers may set.
// Errors are status codes: 400 invalid, 403 forbidden, 404 not found, 409 conflict,
// 410 fenced, 503 unavailable (retry with back-off), with a Problem as the body.
package rpc
