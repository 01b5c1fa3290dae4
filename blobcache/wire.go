package blobcache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/delta"
)

// The blob protocol. A stream carries requests and their responses in turn; the next
// request follows the whole response before it. Numbers are big endian.
//
//	request, 72 bytes        response, 8 bytes
//	 0  version              0  version
//	 1  op                   1  status
//	 2  role of the caller   2  zero (2)
//	 3  bases, of getp       4  size of what follows (4)
//	 4  argument (4)
//	 8  digest (32)
//	40  artifact (32)
//
//	op    argument        digest    follows the request     follows an OK response
//	get   wait, ms        chunk     -                       the chunk
//	put   size            chunk     the chunk               -
//	has   n, 1..4096      zero      n digests, 32 each      bitmap, bit i at byte i/8, lowest first
//	getm  zero            artifact  -                       the envelope
//	putm  size            artifact  the envelope            -
//	getp  wait, ms        chunk     1..8 digests, 32 each   1 byte: bit i says that base i was used; then the
//	                                                        patch (package delta), or with no bit the chunk
//	geta  zero            artifact  -                       the account, JSON
//
// Other statuses are followed by a text for people, maxTextBytes at most. The role
// says as what the caller acts, when its certificate allows several (0: any of
// them). The artifact of a get says what the bytes are for: they are counted for it, and
// sent when it is its turn. The digests of a getp are chunks that the caller holds: those used, in this order, are
// the patch's base.
const (
	wireVersion = 1

	requestBytes  = 72
	responseBytes = 8
	digestBytes   = 32

	maxHasDigests = 4096
	maxWaitMS     = 30_000
	maxTextBytes  = 512
)

type op byte

const (
	opGet op = iota + 1
	opPut
	opHas
	opGetManifest
	opPutManifest
	opGetPatch
	opGetAccount
)

type status byte

const (
	statusOK status = iota + 1
	statusMissing
	statusBusy      // try again, or another
	statusForbidden // the caller may not do this
	statusCorrupt   // what was put is not what it should be
	statusFull
	statusError
)

// roleCodes are the wire's codes of roles.
var roleCodes = [...]starling.Role{1: starling.RoleServer, 2: starling.RoleCache, 3: starling.RoleWorker, 4: starling.RoleMachine}

type request struct {
	op       op
	role     starling.Role // empty: any
	arg      uint32
	digest   starling.Digest
	artifact starling.Digest
	bases    uint8 // how many follow
}

type response struct {
	status status
	size   uint32
}

var errProtocol = errors.New("blob protocol violated")

func (q request) encode() [requestBytes]byte {
	var b [requestBytes]byte
	b[0], b[1], b[3] = wireVersion, byte(q.op), q.bases
	for code, r := range roleCodes {
		if r == q.role {
			b[2] = byte(code)
		}
	}
	binary.BigEndian.PutUint32(b[4:], q.arg)
	copy(b[8:], q.digest[:])
	copy(b[40:], q.artifact[:])
	return b
}

func decodeRequest(b [requestBytes]byte) (request, error) {
	q := request{op: op(b[1]), arg: binary.BigEndian.Uint32(b[4:])}
	if b[0] != wireVersion {
		return q, fmt.Errorf("%w: version %d, this program speaks %d", errProtocol, b[0], wireVersion)
	}
	if int(b[2]) >= len(roleCodes) || (b[3] > 0) != (q.op == opGetPatch) || b[3] > delta.MaxBases {
		return q, fmt.Errorf("%w: role %d, %d bases", errProtocol, b[2], b[3])
	}
	q.bases = b[3]
	q.role = roleCodes[b[2]]
	copy(q.digest[:], b[8:])
	copy(q.artifact[:], b[40:])
	limit := uint32(0)
	switch q.op {
	case opGet, opGetPatch:
		limit = maxWaitMS
	case opPut:
		limit = starling.MaxChunkBytes
	case opHas:
		limit = maxHasDigests
	case opGetManifest, opGetAccount:
	case opPutManifest:
		limit = artifact.MaxEnvelopeBytes
	default:
		return q, fmt.Errorf("%w: operation %d", errProtocol, q.op)
	}
	if q.arg > limit {
		return q, fmt.Errorf("%w: argument %d of operation %d, at most %d", errProtocol, q.arg, q.op, limit)
	}
	if q.arg == 0 && (q.op == opPut || q.op == opHas || q.op == opPutManifest) {
		return q, fmt.Errorf("%w: operation %d with nothing", errProtocol, q.op)
	}
	return q, nil
}

// bodyBytes is how much follows the request.
func (q request) bodyBytes() int64 {
	switch q.op {
	case opPut, opPutManifest:
		return int64(q.arg)
	case opHas:
		return int64(q.arg) * digestBytes
	case opGetPatch:
		return int64(q.bases) * digestBytes
	default:
		return 0
	}
}

func (p response) encode() [responseBytes]byte {
	var b [responseBytes]byte
	b[0], b[1] = wireVersion, byte(p.status)
	binary.BigEndian.PutUint32(b[4:], p.size)
	return b
}

// decodeResponse checks a response to q against what it may hold.
func decodeResponse(b [responseBytes]byte, q request) (response, error) {
	p := response{status: status(b[1]), size: binary.BigEndian.Uint32(b[4:])}
	if b[0] != wireVersion || b[2] != 0 || b[3] != 0 || p.status < statusOK || p.status > statusError {
		return p, fmt.Errorf("%w: response %x", errProtocol, b)
	}
	limit, least := uint32(maxTextBytes), uint32(0)
	if p.status == statusOK {
		limit = 0
		switch q.op {
		case opGet:
			limit, least = starling.MaxChunkBytes, 1
		case opGetPatch:
			limit, least = starling.MaxChunkBytes+1, 2
		case opHas:
			limit = (q.arg + 7) / 8
			least = limit
		case opGetManifest:
			limit, least = artifact.MaxEnvelopeBytes, 1
		case opGetAccount:
			limit, least = starling.MaxAccountBytes, 1
		}
	}
	if p.size < least || p.size > limit {
		return p, fmt.Errorf("%w: response of %d bytes to operation %d, want %d to %d", errProtocol, p.size, q.op, least, limit)
	}
	return p, nil
}

func readRequest(r io.Reader) (request, error) {
	var b [requestBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return request{}, err
	}
	return decodeRequest(b)
}

func readResponse(r io.Reader, q request) (response, error) {
	var b [responseBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return response{}, err
	}
	return decodeResponse(b, q)
}

// statusOf maps an error to the wire.
func statusOf(err error) status {
	switch {
	case errors.Is(err, starling.ErrForbidden):
		return statusForbidden
	case errors.Is(err, ErrFull):
		return statusFull
	case errors.Is(err, starling.ErrCorrupt):
		return statusCorrupt
	case errors.Is(err, starling.ErrNotFound):
		return statusMissing
	case errors.Is(err, starling.ErrUnavailable):
		return statusBusy
	default:
		return statusError
	}
}

// err returns the error that a status other than OK stands for.
func (s status) err(text string) error {
	var kind error
	switch s {
	case statusMissing:
		kind = starling.ErrNotFound
	case statusBusy:
		kind = starling.ErrUnavailable
		if busy := busyIn(text); busy != nil {
			kind, text = busy, ""
		}
	case statusForbidden:
		kind = starling.ErrForbidden
	case statusCorrupt:
		kind = starling.ErrCorrupt
	case statusFull:
		kind = ErrFull
	default:
		return fmt.Errorf("the peer reports: %s", text)
	}
	if text == "" {
		return kind
	}
	return fmt.Errorf("%w: the peer reports: %s", kind, text)
}
