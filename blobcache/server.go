package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
)

// Accept waits for the next stream of the blob protocol and tells who opened it, by
// verified certificate. Its error ends Serve.
type Accept func(ctx context.Context) (net.Conn, starling.Identity, error)

// Bounds of a Server, beside those in ServerConfig.
const (
	serverIdle       = 60 * time.Second // between two requests of a stream
	transferTimeout  = 60 * time.Second // of one body, in either direction
	bufferPatience   = 2 * time.Second  // for the buffer budget, before busy is answered
	maxCountedBlobs  = 16_384           // artifacts whose traffic is counted one by one
	maxCountedPeers  = 1_024            // pairs of region and role whose traffic is counted
	defaultStreams   = 1_024
	defaultBufferMiB = 96
	defaultUploads   = 8        // soon whole, and enough for links with a large delay
	sendPieceBytes   = 64 << 10 // between two looks at how a transfer comes along
)

// ServerConfig says what a Server serves, and to whom.
type ServerConfig struct {
	Region string // the server's own
	Source Source
	// Store takes what peers put, after VerifyManifest for envelopes. Nil: puts are
	// forbidden.
	Store          Store
	VerifyManifest func(envelope []byte, artifact starling.Digest) error
	// Account tells servers how an artifact came to this machine, in MaxAccountBytes of
	// JSON at most. Nil, where there is no machine: ErrNotFound.
	Account        func(artifact starling.Digest) ([]byte, error)
	Logger         *slog.Logger
	MaxStreams     int   // open at once; further ones are closed; 0: 1,024
	MaxBufferBytes int64 // of chunks and envelopes in memory; 0: 96 MiB
	// Patcher makes patches for those who hold older chunks; nil: an own one.
	Patcher *Patcher
	// ReadBase reads an older chunk that Source lacks from nearby; nil: there is nowhere.
	ReadBase ReadChunk

	MaxUploads       int    // chunks sent at once, the others waiting in line; 0: 8
	MaxUploadsQueued int    // in line, before peers are told busy; 0: MaxStreams
	Upload           *Limit // of all chunks sent; nil: no cap
	// Urgency tells how urgent an artifact is that a peer says it gets a chunk for, and
	// false for one that is not known here: all those share one place in line. Nil: all
	// artifacts are equal.
	Urgency func(artifact starling.Digest) (u Urgency, known bool)
}

// Server answers the blob protocol.
//
// Any node of the cluster may get and ask, a machine only in its own region; workers,
// servers and caches may put; servers alone may ask for accounts. The certificate
// decides, not what the peer says. Chunks are sent in turn, see turns.
type Server struct {
	cfg     ServerConfig
	buffers *buffers
	turns   *turns
	streams chan struct{}
	traffic *traffic
}

// NewServer returns a server; Serve runs it.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = defaultStreams
	}
	if cfg.MaxBufferBytes == 0 {
		cfg.MaxBufferBytes = defaultBufferMiB << 20
	}
	if cfg.Patcher == nil {
		cfg.Patcher = NewPatcher()
	}
	if cfg.MaxUploads == 0 {
		cfg.MaxUploads = defaultUploads
	}
	if cfg.MaxUploadsQueued == 0 {
		cfg.MaxUploadsQueued = cfg.MaxStreams
	}
	return &Server{
		cfg:     cfg,
		turns:   newTurns(cfg.MaxUploads, cfg.MaxUploadsQueued, cfg.Upload),
		buffers: newBuffers(cfg.MaxBufferBytes, bufferPatience),
		streams: make(chan struct{}, cfg.MaxStreams),
		traffic: newTraffic(),
	}
}

// Serve answers streams until ctx ends, then returns nil, or until accept fails.
// It returns when all its streams are closed.
func (s *Server) Serve(ctx context.Context, accept Accept) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		conn, peer, err := accept(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("accept blob stream: %w", err)
		}
		select {
		case s.streams <- struct{}{}:
		default: // the peer sees a closed stream and tries another cache, or later
			s.cfg.Logger.Warn("too many blob streams: one is refused", "peer", peer.String(), "error", conn.Close())
			continue
		}
		wg.Go(func() {
			defer func() { <-s.streams }()
			s.serveStream(ctx, conn, peer)
		})
	}
}

func (s *Server) serveStream(ctx context.Context, conn net.Conn, peer starling.Identity) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // wakes reads and writes
	defer stop()
	var err error
	for err == nil {
		err = s.serveRequest(ctx, conn, peer)
	}
	err = errors.Join(err, conn.Close())
	if errors.Is(err, errProtocol) {
		s.cfg.Logger.Warn("blob stream closed", "peer", peer.String(), "error", err)
	} else { // peers come and go, and close idle streams
		s.cfg.Logger.Debug("blob stream closed", "peer", peer.String(), "error", err)
	}
}

// serveRequest reads and answers one request. Its error ends the stream.
func (s *Server) serveRequest(ctx context.Context, conn net.Conn, peer starling.Identity) error {
	if err := s.deadline(ctx, conn, serverIdle); err != nil {
		return err
	}
	q, err := readRequest(conn)
	if err != nil {
		return err
	}
	if err := s.deadline(ctx, conn, transferTimeout); err != nil {
		return err
	}
	if err := s.authorize(q, peer); err != nil {
		if err := discard(conn, q.bodyBytes()); err != nil {
			return err
		}
		return respondError(conn, err)
	}
	switch q.op {
	case opGet:
		return s.get(ctx, conn, peer, q)
	case opPut:
		return s.put(ctx, conn, q)
	case opHas:
		return s.has(ctx, conn, q)
	case opGetManifest:
		return s.getManifest(ctx, conn, q)
	case opPutManifest:
		return s.putManifest(ctx, conn, peer, q)
	case opGetPatch:
		return s.getPatch(ctx, conn, peer, q)
	case opGetAccount:
		return s.getAccount(ctx, conn, q)
	default:
		return fmt.Errorf("%w: operation %d", errProtocol, q.op)
	}
}

// deadline gives the next reads and writes d from now, but none once ctx has ended.
func (s *Server) deadline(ctx context.Context, conn net.Conn, d time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	return ctx.Err() // after: the stop function may have run just before
}

func (s *Server) authorize(q request, peer starling.Identity) error {
	if q.role != "" && !peer.Has(q.role) {
		return fmt.Errorf("%w: %s acts as %s", starling.ErrForbidden, peer, q.role)
	}
	trusted := peer.Has(starling.RoleServer) || peer.Has(starling.RoleCache) || peer.Has(starling.RoleWorker)
	switch q.op {
	case opPut, opPutManifest:
		switch {
		case !trusted:
			return fmt.Errorf("%w: only workers, servers and caches may upload", starling.ErrForbidden)
		case s.cfg.Store == nil:
			return fmt.Errorf("%w: this node serves only", starling.ErrForbidden)
		}
	case opGetAccount:
		if !peer.Has(starling.RoleServer) {
			return fmt.Errorf("%w: accounts are for servers", starling.ErrForbidden)
		}
	default:
		if !trusted && !(peer.Has(starling.RoleMachine) && peer.Region == s.cfg.Region) {
			return fmt.Errorf("%w: machines get from their own region", starling.ErrForbidden)
		}
	}
	return nil
}

func (s *Server) get(ctx context.Context, conn net.Conn, peer starling.Identity, q request) error {
	size, ok, err := s.await(ctx, conn, q)
	if err != nil {
		return err
	}
	if !ok {
		return respond(conn, statusMissing, nil)
	}
	t, err := s.turn(ctx, q.artifact, size) // before the chunk takes memory
	if err != nil {
		return s.answer(ctx, conn, err)
	}
	defer t.done()
	return s.send(ctx, conn, peer, q, t, size)
}

// turn waits until it is the turn of a chunk to be sent.
func (s *Server) turn(ctx context.Context, artifact starling.Digest, size int) (*turn, error) {
	var u Urgency
	if s.cfg.Urgency != nil {
		var known bool
		if u, known = s.cfg.Urgency(artifact); !known {
			artifact = starling.Digest{}
		}
	}
	return s.turns.enter(ctx, artifact, u, size)
}

// send reads a chunk and answers a get with it.
func (s *Server) send(ctx context.Context, conn net.Conn, peer starling.Identity, q request, t *turn, size int) error {
	return s.withChunk(ctx, conn, q, size, func(data []byte) error {
		if err := s.deadline(ctx, conn, transferTimeout); err != nil {
			return err
		}
		head := response{status: statusOK, size: uint32(len(data))}.encode()
		if _, err := conn.Write(head[:]); err != nil {
			return err
		}
		return s.transmit(ctx, conn, peer, q, t, data)
	})
}

// withChunk calls f with the chunk that q asks for, which is gone afterwards, or answers
// why there is none.
func (s *Server) withChunk(ctx context.Context, conn net.Conn, q request, size int, f func(data []byte) error) error {
	buf, err := s.buffers.take(ctx, size)
	if err != nil {
		return s.answer(ctx, conn, err)
	}
	defer s.buffers.give(buf)
	data, err := s.cfg.Source.Chunk(ctx, q.digest, (*buf)[:0])
	if err != nil {
		return s.answerUnread(conn, q, err)
	}
	return f(data)
}

// transmit sends the body of an answer to a get, within the cap on uploads.
func (s *Server) transmit(ctx context.Context, conn net.Conn, peer starling.Identity, q request, t *turn, data []byte) error {
	for piece := range slices.Chunk(data, sendPieceBytes) {
		if err := s.cfg.Upload.write(ctx, conn, piece); err != nil {
			return err
		}
		t.progress(len(piece))
	}
	s.traffic.count(peer, q, len(data))
	return nil
}

// await returns the size of the chunk that q asks for, as soon as it is held.
func (s *Server) await(ctx context.Context, conn net.Conn, q request) (size int, ok bool, err error) {
	size, ok = s.cfg.Source.Stat(q.digest)
	if ok || q.arg == 0 {
		return size, ok, nil
	}
	wait := time.Duration(q.arg) * time.Millisecond
	if err := s.deadline(ctx, conn, wait+transferTimeout); err != nil {
		return 0, false, err
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if s.cfg.Source.Wait(waiting, q.digest) == nil {
		size, ok = s.cfg.Source.Stat(q.digest)
	}
	return size, ok, nil
}

// answerUnread answers a request for a chunk that cannot be read.
func (s *Server) answerUnread(conn net.Conn, q request, err error) error {
	if errors.Is(err, starling.ErrNotFound) || errors.Is(err, starling.ErrCorrupt) {
		return respond(conn, statusMissing, nil) // the source has told its owner of damage
	}
	s.cfg.Logger.Warn("cannot read a chunk", "digest", q.digest.String(), "error", err)
	return respondError(conn, errors.New("cannot read the chunk")) // the disk's affairs stay here
}

// answer reports an error after a wait.
func (s *Server) answer(ctx context.Context, conn net.Conn, err error) error {
	if err := s.deadline(ctx, conn, transferTimeout); err != nil {
		return err
	}
	return respondError(conn, err)
}

func (s *Server) put(ctx context.Context, conn net.Conn, q request) error {
	buf, err := s.buffers.take(ctx, int(q.arg))
	if err != nil {
		if err := discard(conn, q.bodyBytes()); err != nil {
			return err
		}
		return respondError(conn, err)
	}
	defer s.buffers.give(buf)
	if _, err := io.ReadFull(conn, *buf); err != nil {
		return fmt.Errorf("upload of %s was cut off: %w", q.digest.Short(), err)
	}
	return s.answerPut(ctx, conn, s.cfg.Store.Put(ctx, q.digest, *buf))
}

func (s *Server) putManifest(ctx context.Context, conn net.Conn, peer starling.Identity, q request) error {
	if err := s.buffers.reserve(ctx, q.bodyBytes()); err != nil {
		if err := discard(conn, q.bodyBytes()); err != nil {
			return err
		}
		return respondError(conn, err)
	}
	defer s.buffers.unreserve(q.bodyBytes())
	envelope, err := readBody(conn, q.bodyBytes())
	if err != nil {
		return fmt.Errorf("upload of manifest %s was cut off: %w", q.digest.Short(), err)
	}
	if s.cfg.VerifyManifest != nil {
		if err := s.cfg.VerifyManifest(envelope, q.digest); err != nil {
			s.cfg.Logger.Warn("refused a manifest", "peer", peer.String(), "artifact", q.digest.String(), "error", err)
			return s.answerPut(ctx, conn, errors.Join(starling.ErrCorrupt, err))
		}
	}
	return s.answerPut(ctx, conn, s.cfg.Store.PutManifest(ctx, q.digest, envelope))
}

func (s *Server) answerPut(ctx context.Context, conn net.Conn, putErr error) error {
	if err := s.deadline(ctx, conn, transferTimeout); err != nil {
		return err
	}
	if putErr == nil {
		return respond(conn, statusOK, nil)
	}
	if !errors.Is(putErr, starling.ErrCorrupt) { // that is the peer's fault, and it is told
		s.cfg.Logger.Warn("cannot keep what a peer uploads", "error", putErr)
	}
	return respondError(conn, putErr)
}

func (s *Server) has(ctx context.Context, conn net.Conn, q request) error {
	digests := make([]byte, q.bodyBytes())
	if _, err := io.ReadFull(conn, digests); err != nil {
		return err
	}
	bitmap := make([]byte, (q.arg+7)/8)
	for i := range int(q.arg) {
		if _, ok := s.cfg.Source.Stat(starling.Digest(digests[i*digestBytes:])); ok {
			bitmap[i/8] |= 1 << (i % 8)
		}
	}
	return respond(conn, statusOK, bitmap)
}

func (s *Server) getManifest(ctx context.Context, conn net.Conn, q request) error {
	// Its size is not known yet; nearly all are smaller than a chunk.
	if err := s.buffers.reserve(ctx, starling.MaxChunkBytes); err != nil {
		return respondError(conn, err)
	}
	defer s.buffers.unreserve(starling.MaxChunkBytes)
	envelope, err := s.cfg.Source.Manifest(ctx, q.digest)
	if err != nil {
		return respondError(conn, err)
	}
	return respond(conn, statusOK, envelope)
}

func (s *Server) getAccount(ctx context.Context, conn net.Conn, q request) error {
	if s.cfg.Account == nil {
		return respond(conn, statusMissing, nil)
	}
	if err := s.buffers.reserve(ctx, starling.MaxAccountBytes); err != nil {
		return respondError(conn, err)
	}
	defer s.buffers.unreserve(starling.MaxAccountBytes)
	account, err := s.cfg.Account(q.digest)
	if err != nil {
		return respondError(conn, err)
	}
	return respond(conn, statusOK, account) // not in turn: it must not queue behind chunks
}

func respond(conn net.Conn, st status, body []byte) error {
	head := response{status: st, size: uint32(len(body))}.encode()
	if _, err := conn.Write(head[:]); err != nil || len(body) == 0 {
		return err
	}
	_, err := conn.Write(body)
	return err
}

func respondError(conn net.Conn, err error) error {
	text := err.Error()
	return respond(conn, statusOf(err), []byte(text[:min(len(text), maxTextBytes)]))
}

// readBody reads n bytes, with memory for those that come only.
func readBody(r io.Reader, n int64) ([]byte, error) {
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, n); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// discard reads n bytes for nobody, so that the peer can read the answer.
func discard(r io.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return err
}
