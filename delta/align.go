package delta

import (
	"cmp"
	"slices"
	"sort"

	"github.com/starlingdeploy/starling"
)

// usefulBytes is how much of a chunk an old one must seem to hold to be read for it.
const usefulBytes = 4 << 10

// Alignment tells which chunks of an old release stand where those of a new one do. It
// is immutable and safe for concurrent use. It takes about 100 bytes for each file and
// each chunk that the two share.
type Alignment struct {
	old, new           *starling.Manifest
	oldStart, newStart []int64 // content offset of each chunk, and of the end
	// Places known to correspond, by place in the new content: those that the content
	// after them goes on from, and those that the content before them leads up to. They
	// differ where files that were neighbours are no more.
	heads, tails []anchor
}

// anchor says that offset old of the old content is offset new of the new.
type anchor struct{ new, old int64 }

// Align compares two valid manifests. What they have in common are chunks of the same
// digest, the beginnings and ends of files of the same path, and those of the whole.
func Align(old, new *starling.Manifest) *Alignment {
	a := &Alignment{old: old, new: new, oldStart: starts(old), newStart: starts(new)}
	pairs := a.alignChunks()
	begins, ends := a.alignFiles()
	// Of several at one place the last head counts, and the first tail.
	a.heads = slices.Concat([]anchor{{0, 0}}, pairs, ends, begins)
	a.tails = slices.Concat(ends, begins, pairs, []anchor{{a.newStart[len(new.Chunks)], a.oldStart[len(old.Chunks)]}})
	order := func(x, y anchor) int { return cmp.Compare(x.new, y.new) }
	slices.SortStableFunc(a.heads, order)
	slices.SortStableFunc(a.tails, order)
	return a
}

func starts(m *starling.Manifest) []int64 {
	out := make([]int64, 1, len(m.Chunks)+1)
	for i := range m.Chunks {
		out = append(out, out[i]+int64(m.Chunks[i].Size))
	}
	return out
}

func (a *Alignment) alignFiles() (begins, ends []anchor) {
	type place struct{ begin, end int64 }
	was := make(map[string]place, len(a.old.Files))
	at := int64(0)
	for i := range a.old.Files {
		f := &a.old.Files[i]
		if f.Size > 0 {
			was[f.Path] = place{at, at + f.Size}
		}
		at += f.Size
	}
	at = 0
	for i := range a.new.Files {
		f := &a.new.Files[i]
		if o, ok := was[f.Path]; ok && f.Size > 0 {
			begins = append(begins, anchor{at, o.begin})
			ends = append(ends, anchor{at + f.Size, o.end})
		}
		at += f.Size
	}
	return begins, ends
}

// alignChunks pairs chunks of the same content. Of several old ones it takes that
// nearest to where the pair before would go on.
func (a *Alignment) alignChunks() (pairs []anchor) {
	where := make(map[starling.Digest][]int, len(a.old.Chunks))
	for i := range a.old.Chunks {
		d := a.old.Chunks[i].Digest
		where[d] = append(where[d], i)
	}
	next := 0 // in the old manifest
	for i := range a.new.Chunks {
		if all := where[a.new.Chunks[i].Digest]; len(all) > 0 {
			k := sort.SearchInts(all, next)
			if k == len(all) || k > 0 && next-all[k-1] < all[k]-next {
				k--
			}
			next = all[k]
			pairs = append(pairs, anchor{a.newStart[i], a.oldStart[next]}, anchor{a.newStart[i+1], a.oldStart[next+1]})
		}
		next++
	}
	return pairs
}

// Bases returns the chunks of the old manifest that a patch for chunk i of the new one
// is best made against, ascending: MaxBases at most and MaxBaseBytes together, those of
// them that held admits.
//
// Each part of the chunk between two known places is looked for in the old content
// where it would stand if only what is before it had moved, if only what is after it
// had, and, for content that grew here and there, in proportion between.
func (a *Alignment) Bases(i int, held func(old int) bool) []int {
	cover := map[int]int64{} // by old chunk: how many bytes it may hold
	end := a.newStart[i+1]
	for x := a.newStart[i]; x < end; {
		h := sort.Search(len(a.heads), func(k int) bool { return a.heads[k].new > x })
		t := sort.Search(len(a.tails), func(k int) bool { return a.tails[k].new > x })
		y := min(end, a.tails[t].new) // there is one: the content's end
		if h < len(a.heads) {
			y = min(y, a.heads[h].new)
		}
		a.look(cover, x, y, h-1, t)
		x = y
	}
	return a.choose(cover, held)
}

// look notes which old chunks may hold what stands from x to y of the new content,
// which is after head h and before tail t.
func (a *Alignment) look(cover map[int]int64, x, y int64, h, t int) {
	before, after := a.heads[h], a.tails[t]
	from, to := before.old, after.old
	if from > to { // parts have changed places: nothing is known of what lies between
		from, to = 0, a.oldStart[len(a.old.Chunks)]
	}
	b, f := before.old-before.new, after.old-after.new
	a.cover(cover, max(x+b, from), min(y+b, to))
	if f == b {
		return
	}
	a.cover(cover, max(x+f, from), min(y+f, to))
	part := float64(x-before.new) / float64(max(after.new-before.new, 1))
	p := b + int64(part*float64(f-b))
	a.cover(cover, max(x+p, from), min(y+p, to))
}

// cover counts the old chunks under [x, y) of the old content.
func (a *Alignment) cover(cover map[int]int64, x, y int64) {
	for c := max(sort.Search(len(a.oldStart), func(k int) bool { return a.oldStart[k] > x })-1, 0); x < y; c++ {
		end := min(y, a.oldStart[c+1])
		cover[c] += end - x
		x = end
	}
}

// choose returns the old chunks that cover most, within the bounds.
func (a *Alignment) choose(cover map[int]int64, held func(old int) bool) []int {
	var found []int
	for c, n := range cover {
		if n >= usefulBytes && held(c) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(x, y int) int { return cmp.Or(cmp.Compare(cover[y], cover[x]), cmp.Compare(x, y)) })
	out, bytes := found[:0], 0
	for _, c := range found {
		if size := a.old.Chunks[c].Size; len(out) < MaxBases && bytes+size <= MaxBaseBytes {
			out, bytes = append(out, c), bytes+size
		}
	}
	slices.Sort(out)
	return out
}

// Closest returns which of some old manifests has most bytes in common with a new one,
// as far as digests of chunks and paths of files tell, the first of equals; -1: none
// has any.
func Closest(new *starling.Manifest, olds []*starling.Manifest) int {
	chunks := make(map[starling.Digest]bool, len(new.Chunks))
	for i := range new.Chunks {
		chunks[new.Chunks[i].Digest] = true
	}
	files := make(map[string]int64, len(new.Files))
	for i := range new.Files {
		files[new.Files[i].Path] = new.Files[i].Size
	}
	best, most := -1, int64(0)
	for k, old := range olds {
		n := int64(0)
		for i := range old.Chunks {
			if chunks[old.Chunks[i].Digest] {
				n += int64(old.Chunks[i].Size)
			}
		}
		for i := range old.Files {
			n += min(files[old.Files[i].Path], old.Files[i].Size)
		}
		if n > most {
			best, most = k, n
		}
	}
	return best
}
