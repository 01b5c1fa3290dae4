package swarm

import "github.com/starlingdeploy/starling"

// The deal says which machine asks the caches for which chunk. Chunks are split
// over the binary tree of the members' hashes: at each node the chunks, in an order of
// that node's own, are cut in proportion to the members on either side. So everyone
// gets an even share of the bytes (within a chunk or two), whoever computes it gets the
// same, and one member's coming or going moves a few shares' worth, not everybody's.

type dealt struct {
	key   uint64
	chunk uint32
	size  uint32
}

// share returns the chunks that self is to ask the caches for, in no particular
// order. If self is no member, it has no share.
func share(seed uint64, self string, members []Member, chunks []starling.Chunk) []uint32 {
	me := mix(hashName(self) ^ seed)
	hashes := make([]uint64, 0, len(members))
	member := false
	for i := range members {
		member = member || members[i].Name == self
		hashes = append(hashes, mix(hashName(members[i].Name)^seed))
	}
	if !member {
		return nil
	}
	cards := make([]dealt, len(chunks))
	for i := range cards {
		cards[i].chunk, cards[i].size = uint32(i), uint32(chunks[i].Size)
	}
	for bit := 63; bit >= 0 && len(hashes) > 1 && len(cards) > 0; bit-- {
		mine := me >> bit & 1
		kept := hashes[:0:len(hashes)]
		total := uint64(len(hashes))
		for _, h := range hashes {
			if h>>bit&1 == mine {
				kept = append(kept, h)
			}
		}
		hashes = kept
		same := uint64(len(kept))
		if same == total {
			continue
		}
		ones := same
		if mine == 0 {
			ones = total - same
		}
		node := mix(seed ^ mix(me>>bit|1) ^ uint64(bit)) // the same on both sides
		cards = cut(cards, node, mine, ones, total)
	}
	out := make([]uint32, len(cards))
	for i, c := range cards {
		out[i] = c.chunk
	}
	return out
}

// cut orders the cards by the node's hash and returns those of side 1, which are the
// first ones/total of the bytes, or those of side 0. The card on the border goes to
// either by the hash.
func cut(cards []dealt, node, side, ones, total uint64) []dealt {
	bytes := uint64(0)
	for i := range cards {
		cards[i].key = mix(node ^ uint64(cards[i].chunk))
		bytes += uint64(cards[i].size)
	}
	k, over := selectBytes(cards, bytes*ones/total)
	if k < len(cards) && mix(node)%uint64(max(cards[k].size, 1)) < over {
		k++
	}
	if side == 1 {
		return cards[:k]
	}
	return cards[k:]
}

// selectBytes brings the cards with the least keys, as many as fit in limit bytes, to
// the front, the next one after them, and returns their number and the bytes left.
// It is Hoare's FIND by weight: linear on average. Keys differ.
func selectBytes(c []dealt, limit uint64) (int, uint64) {
	lo, hi := 0, len(c)
	for lo < hi {
		c[lo], c[(lo+hi)/2] = c[(lo+hi)/2], c[lo]
		at, weight := lo, uint64(0)
		for i := lo + 1; i < hi; i++ {
			if c[i].key < c[lo].key {
				at++
				c[at], c[i] = c[i], c[at]
				weight += uint64(c[at].size)
			}
		}
		c[lo], c[at] = c[at], c[lo]
		switch pivot := uint64(c[at].size); {
		case weight > limit:
			hi = at
		case weight+pivot > limit:
			return at, limit - weight
		default:
			limit -= weight + pivot
			lo = at + 1
		}
	}
	return lo, limit
}
