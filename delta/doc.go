// Package delta describes a chunk by older ones: Align finds the chunks of an old
// release that stand where a new one's chunk does, Encoder makes a patch of them,
// Apply makes the chunk of the patch. It is pure.
package delta

import "github.com/starlingdeploy/starling"

// Bounds of a patch.
const (
	MaxBases       = 8       // chunks that a patch may be made against
	MaxBaseBytes   = 8 << 20 // together
	MaxTargetBytes = starling.MaxChunkBytes
)

// A patch is a sequence of numbers and bytes. Numbers are those of encoding/binary's
// Uvarint and, where said, Varint.
//
//	size of the target
//	until the target has that size:
//	  n            bytes to insert, 0 or more
//	  n bytes
//	  n            bytes to copy from the base, 1 or more; left out once the target is whole
//	  distance     (Varint) from where the last copy ended, moved on by what was inserted
//	               since: 0 for content that was changed in place
//
// There are no checksums in it: the target's digest is known to who asked for it.
const maxNumber = max(MaxBaseBytes, MaxTargetBytes)
