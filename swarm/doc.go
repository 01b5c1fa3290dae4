// Package swarm is the brain of a peer that fetches artifacts together with the
// other machines of its cell: whom to link to, which chunk to ask of whom, when to
// hedge or give up, what to announce, whom to distrust.
//
// A [Peer] is plain data with one method, Step: an event and the time go in, effects
// come out. It reads no clock, does no I/O, takes no lock and draws no random number
// (ties are broken by a hash seeded in [Config]); the same events give the same
// effects. Package agent runs it on wall time and QUIC, package sim on virtual time.
//
// How the runner serves matters as much as how the brain asks: a machine should send
// at most [UploadSlots] chunks at once, the others waiting (the urgent before the rest,
// artifacts in turn, in order of arrival within one), so that chunks finish one after
// the other and can be passed on; a transfer that falls behind the others should not
// count (see [SendPace]); when more than [UploadQueueChunks] wait it should answer busy.
//
// The parts:
//
//   - overlay.go: who is linked to whom, from the membership alone (no tracker).
//   - deal.go: which machine asks the region's caches for which chunk, so that about
//     one copy of an artifact leaves them.
//   - download.go: one artifact's bitsets and rarest-first pick.
//   - source.go: what is known of one peer or cache: pace, depth, back-off.
//   - have.go: what is held here and elsewhere, and telling of it.
//   - fetch.go: filling the pipelines.
//   - priority.go: which artifact goes first.
//   - park.go: requests left standing at caches that are being filled.
//   - cover.go: taking over the shares of members that lag behind.
//   - failure.go, rescue.go: time-outs, blame, hedges, the fall-back to the caches.
//   - links.go: dialling the overlay's neighbours.
//   - slot.go: which transfers of a server of chunks have fallen behind.
//   - peer.go: Step. trace.go: records of steps, and their replay.
package swarm
