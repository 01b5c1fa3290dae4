package artifact

import (
	"errors"
	"io"

	"github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"

	"github.com/starlingdeploy/starling"
)

// ChunkerName is the versioned algorithm that cuts content: FastCDC with normalized
// chunking of level 2 (Xia et al., USENIX ATC 2016), as PlakarKorp/go-cdc-chunkers
// defines it. Other parameters, or another version, move the cuts and so cost every
// fleet one full transfer: a golden test pins them.
//
// The table of the rolling hash is the library's; its loop is written out here, eight
// bytes at a time, because that more than doubles its speed. A test holds the two equal.
const ChunkerName = "fastcdc-v1.0.0"

// Sizes of chunks. The last one of an artifact may be shorter than MinChunkBytes.
const (
	MinChunkBytes    = 256 << 10
	NormalChunkBytes = 1 << 20 // the mean comes out at about 1.15 MiB
	MaxChunkBytes    = starling.MaxChunkBytes
)

// Before NormalChunkBytes a cut takes 22 zero bits of the hash, after it 18; 20 would
// be the bare logarithm of the size. The bits are spread over the word.
const (
	strictMask uint64 = 0xAAAAAAAAAAA00000 // bits 63, 61, … 21
	looseMask  uint64 = 0x9249249249249000 // bits 63, 60, … 12
)

// pieceBytes is how much is read at a time: little enough to be in the processor's
// cache still when the hash rolls over it.
const pieceBytes = 256 << 10

// scan cuts what src holds. It reads into buffers of MaxChunkBytes that take gives it
// and hands each chunk on in the buffer that it was read into: emit owns it then.
func scan(src io.Reader, take func() ([]byte, error), emit func(i int, chunk []byte) error) error {
	buf, err := take()
	if err != nil {
		return err
	}
	end := 0 // of what is read
	for i := 0; ; i++ {
		var c cutter
		n, found, last := 0, false, false
		for !found && !last {
			if n, found = c.cut(buf[:end]); found {
				break
			}
			read, err := src.Read(buf[end:min(end+pieceBytes, len(buf))])
			end += read
			if errors.Is(err, io.EOF) {
				n, found = c.cut(buf[:end])
				last = true
			} else if err != nil {
				return err
			}
		}
		if !found {
			if end == 0 {
				return nil
			}
			return emit(i, buf[:end])
		}
		rest, err := take()
		if err != nil {
			return err
		}
		end = copy(rest, buf[n:end])
		if err := emit(i, buf[:n]); err != nil {
			return err
		}
		buf = rest
	}
}

// cutter looks for the end of one chunk while its data grows.
type cutter struct {
	at   int // how far the hash has rolled
	hash uint64
}

// cut returns the length of the chunk that data begins with, false if more data is needed
// to tell. Each call's data begins with that of the call before.
func (c *cutter) cut(data []byte) (n int, found bool) {
	if len(data) <= MinChunkBytes {
		return 0, false
	}
	c.at = max(c.at, MinChunkBytes)
	if c.at < NormalChunkBytes {
		c.at, c.hash, found = roll(data[:min(len(data), NormalChunkBytes)], c.at, c.hash, strictMask)
	}
	if !found && c.at >= NormalChunkBytes {
		c.at, c.hash, found = roll(data, c.at, c.hash, looseMask)
	}
	return c.at, found || len(data) == MaxChunkBytes
}

// roll moves the gear hash over data from index i on, until the bits of mask are
// zero. Without such a place it returns len(data), and the hash to go on with.
func roll(data []byte, i int, hash, mask uint64) (at int, end uint64, found bool) {
	gear := &fastcdc.G
	for ; i+8 <= len(data); i += 8 {
		d := data[i : i+8 : i+8]
		h0 := hash<<1 + gear[d[0]]
		h1 := h0<<1 + gear[d[1]]
		h2 := h1<<1 + gear[d[2]]
		h3 := h2<<1 + gear[d[3]]
		h4 := h3<<1 + gear[d[4]]
		h5 := h4<<1 + gear[d[5]]
		h6 := h5<<1 + gear[d[6]]
		h7 := h6<<1 + gear[d[7]]
		if h0&mask == 0 || h1&mask == 0 || h2&mask == 0 || h3&mask == 0 ||
			h4&mask == 0 || h5&mask == 0 || h6&mask == 0 || h7&mask == 0 {
			break // the loop below finds which
		}
		hash = h7
	}
	for ; i < len(data); i++ {
		hash = hash<<1 + gear[data[i]]
		if hash&mask == 0 {
			return i, hash, true
		}
	}
	return i, hash, false
}
