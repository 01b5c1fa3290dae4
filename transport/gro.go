package transport

import (
	"encoding/binary"
	"net"
)

// A kernel with UDP_GRO merges consecutive packets of one flow into a super-datagram: up to 64 KiB
// of payload, cut into equal segments but for a shorter last one, with one set of
// control messages, of which UDP_GRO gives the segment size.
const (
	maxSuperDatagramBytes = 64 << 10
	superDatagramsPerRead = 8
	controlBytes          = 128 // what quic-go itself allows for
)

// superDatagram hands out the segments of one receive.
type superDatagram struct {
	rest         []byte // not yet handed out
	segmentBytes int    // at least 1
	control      []byte // the control messages of every segment
	from         net.Addr
}

// cut copies the next segment into dst and returns its length. As with a read from a socket, what
// dst has no room for is lost.
func (s *superDatagram) cut(dst []byte) int {
	segment := s.rest[:min(s.segmentBytes, len(s.rest))]
	s.rest = s.rest[len(segment):]
	return copy(dst, segment)
}

// The parts of a control message, see cmsg(3): a header with its length (header included), level and type,
// then the data, all padded to the size of a word. On every 64-bit Linux a word is 8 bytes.
const (
	cmsgWordBytes   = 8
	cmsgHeaderBytes = 16
)

// splitControl takes the control message of the given level and type, which holds a C int, out of the
// others. It returns its value, or 0 if there is none, and appends the others to rest.
// Bytes that are no control messages end the search; the kernel sends none.
func splitControl(control []byte, level, kind int32, rest []byte) (value int, others []byte) {
	for len(control) >= cmsgHeaderBytes {
		length := binary.NativeEndian.Uint64(control)
		if length < cmsgHeaderBytes || length > uint64(len(control)) {
			break
		}
		space := min((int(length)+cmsgWordBytes-1)&^(cmsgWordBytes-1), len(control))
		isIt := int32(binary.NativeEndian.Uint32(control[8:])) == level && int32(binary.NativeEndian.Uint32(control[12:])) == kind
		switch {
		case !isIt:
			rest = append(rest, control[:space]...)
		case length >= cmsgHeaderBytes+4:
			value = int(int32(binary.NativeEndian.Uint32(control[cmsgHeaderBytes:])))
		}
		control = control[space:]
	}
	return value, rest
}
