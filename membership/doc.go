// Package membership is gossip: who is there, at which address, in which role. A region's
// servers, caches and workers have one pool; its machines have one for each cell. It stands on hashicorp/serf (SWIM: Das, Gupta and Motivala, 2002, with
// the Lifeguard extensions) and speaks starling.Node.
//
// Gossip is a hint about liveness and addresses, never an authority: its secret is
// one key shared by the pool. What a peer may do is decided by its certificate.
//
// Each member announces itself in Serf tags of 512 bytes at most, encoded:
//
//	c  cluster                 z  zone
//	g  region                  k  rack
//	r  roles, a letter each    q  QUIC address
//	h  HTTP address            l  cell, in its pool
//	.x free tag x
//	_x reserved tag x, see Pool.SetTag
package membership
