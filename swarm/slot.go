package swarm

import "time"

// SendPace is what a server of chunks learns of how long it takes to send one. A transfer
// that falls behind it, because its receiver is slow or dead, should no longer count
// against UploadSlots: the next begins beside it, so that a few such receivers, of the
// many in a cell, do not hold up the others. The zero value knows nothing.
type SendPace struct {
	perByte float64 // seconds, a mean; 0: nothing was sent yet
}

const (
	slotGain  = 3                     // times the mean, that a transfer may take
	slotSlack = 1.0 / 4               // of a chunk, that it may be behind that from the start
	minSlot   = 20 * time.Millisecond // however fast the others are
	slowest   = 4                     // times the mean, that one transfer counts as at most
)

// Sent learns from a chunk of size bytes that took so long to be sent.
func (p *SendPace) Sent(size int64, took time.Duration) {
	x := took.Seconds() / float64(max(size, 1))
	if p.perByte == 0 {
		p.perByte = x
		return
	}
	p.perByte += (min(x, slowest*p.perByte) - p.perByte) / 8
}

// Patience returns until when, since its beginning, a transfer of size bytes keeps its
// slot if no more than sent of them have left; SlotPatience at most.
func (p *SendPace) Patience(size, sent int64) time.Duration {
	if p.perByte == 0 {
		return SlotPatience
	}
	likely := slotGain * p.perByte * (float64(sent) + slotSlack*float64(size))
	return min(max(time.Duration(likely*float64(time.Second)), minSlot), SlotPatience)
}
