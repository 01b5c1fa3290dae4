package swarm

import (
	"cmp"
	"slices"

	"github.com/starlingdeploy/starling"
)

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
		k := border(cards, nodeKey(seed, me, bit), ones, total)
		if mine == 1 {
			cards = cards[:k]
		} else {
			cards = cards[k:]
		}
	}
	out := make([]uint32, len(cards))
	for i, c := range cards {
		out[i] = c.chunk
	}
	return out
}

// dealAll returns whose share each chunk is in, as an index into members; there is at
// least one. It agrees with share, and takes log2(members) as long.
func dealAll(seed uint64, members []Member, chunks []starling.Chunk) []int32 {
	o := dealing{seed: seed, out: make([]int32, len(chunks))}
	for i := range members {
		o.seats = append(o.seats, seat{mix(hashName(members[i].Name) ^ seed), int32(i)})
	}
	slices.SortFunc(o.seats, func(a, b seat) int { return cmp.Compare(a.hash, b.hash) })
	cards := make([]dealt, len(chunks))
	for i := range cards {
		cards[i].chunk, cards[i].size = uint32(i), uint32(chunks[i].Size)
	}
	o.deal(o.seats, cards, 63)
	return o.out
}

type dealing struct {
	seed  uint64
	seats []seat // in order of hash
	out   []int32
}

type seat struct {
	hash   uint64
	member int32
}

// deal splits cards among seats, whose hashes agree above bit.
func (o *dealing) deal(seats []seat, cards []dealt, bit int) {
	for ; bit >= 0 && len(seats) > 1 && len(cards) > 0; bit-- {
		zeros := 0
		for zeros < len(seats) && seats[zeros].hash>>bit&1 == 0 {
			zeros++
		}
		if zeros == 0 || zeros == len(seats) {
			continue
		}
		total := uint64(len(seats))
		node := nodeKey(o.seed, seats[0].hash, bit)
		k := border(cards, node, total-uint64(zeros), total)
		o.deal(seats[zeros:], cards[:k], bit-1)
		seats, cards = seats[:zeros], cards[k:]
	}
	for _, c := range cards {
		o.out[c.chunk] = seats[0].member
	}
}

// nodeKey is the hash of a tree's node: the bits of h above bit, and bit.
func nodeKey(seed, h uint64, bit int) uint64 { return mix(seed ^ mix(h>>bit|1) ^ uint64(bit)) }

// border orders the cards by the node's hash and returns the number of those of side
// 1, which are the first ones/total of the bytes. The card on the border goes to either
// side by the hash.
func border(cards []dealt, node, ones, total uint64) int {
	bytes := uint64(0)
	for i := range cards {
		cards[i].key = mix(node ^ uint64(cards[i].chunk))
		bytes += uint64(cards[i].size)
	}
	k, over := selectBytes(cards, bytes*ones/total)
	if k < len(cards) && mix(node)%uint64(max(cards[k].size, 1)) < over {
		k++
	}
	return k
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
