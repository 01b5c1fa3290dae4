package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

// worthSleep is the least time that a read is put off for: timers are no finer.
const worthSleep = 50 * time.Microsecond

// socket is the UDP socket as quic-go uses it. Sending and control go straight to the
// *net.UDPConn; receiving goes through ReadBatch, which quic-go finds by that name.
type socket struct {
	*net.UDPConn
	batch batchReader

	gro          bool
	coalesce     time.Duration
	receiveBytes int

	// Only ReadBatch, which quic-go calls from one goroutine, touches these.
	messages []ipv4.Message // what a read fills; empty without GRO
	supers   [superDatagramsPerRead]superDatagram
	next     int // supers[next:filled] are not handed out yet
	filled   int
	readAt   time.Time // of the last read
	full     bool      // it brought all that there was room for: more may wait

	reads, packets atomic.Uint64
}

// batchReader is ipv4.PacketConn's recvmmsg(2). Despite its name it reads IPv6 as well.
type batchReader interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
}

// bind opens the UDP socket of an endpoint.
func bind(cfg *Config) (*socket, error) {
	addr, err := net.ResolveUDPAddr("udp", cfg.Bind)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Bind, err)
	}
	conn, err := net.ListenUDP("udp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: UDP port %d is in use: end the process that has it (`ss -lunp 'sport = :%d'` names it) or choose another port for QUIC: %w",
			cfg.Bind, addr.Port, addr.Port, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine has no such address: %w", cfg.Bind, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", cfg.Bind, err)
	}
	s := &socket{UDPConn: conn, batch: ipv4.NewPacketConn(conn), coalesce: cfg.ReceiveCoalesce}
	if s.receiveBytes, err = growBuffers(conn); err != nil || s.receiveBytes < socketBufferBytes {
		cfg.Logger.Warn("the UDP buffers are small, which costs throughput: set the sysctls net.core.rmem_max and net.core.wmem_max to 7500000",
			slog.Int("receive_bytes", s.receiveBytes), slog.Int("want_bytes", socketBufferBytes), slog.Any("error", err))
	}
	if !cfg.DisableGRO {
		if err := enableGRO(conn); err != nil {
			cfg.Logger.Info("this kernel does not merge received UDP packets; reading them one by one", slog.Any("error", err))
		} else {
			s.useGRO()
		}
	}
	return s, nil
}

func (s *socket) useGRO() {
	s.gro = true
	s.messages = make([]ipv4.Message, superDatagramsPerRead)
	for i := range s.messages {
		s.messages[i].Buffers = [][]byte{make([]byte, maxSuperDatagramBytes)}
		s.messages[i].OOB = make([]byte, controlBytes)
		s.supers[i].control = make([]byte, 0, controlBytes)
	}
}

func (s *socket) bound() netip.AddrPort {
	a := s.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// ReadBatch fills ms with one packet each and returns how many. quic-go wants the error of a
// read as it is, to know a time-out by its type.
func (s *socket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	if s.next == s.filled {
		if s.coalesce > 0 && !s.full {
			if wait := s.coalesce - time.Since(s.readAt); wait > worthSleep {
				time.Sleep(wait)
			}
		}
		if !s.gro {
			n, err := s.batch.ReadBatch(ms, flags)
			if n > 0 {
				s.packets.Add(uint64(n))
				s.noteRead(n == len(ms))
			}
			return n, err
		}
		if err := s.readSupers(flags); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(ms) && s.next < s.filled {
		super := &s.supers[s.next]
		m := &ms[n]
		m.N = super.cut(m.Buffers[0])
		m.NN = copy(m.OOB, super.control)
		m.Addr = super.from
		m.Flags = 0
		n++
		if len(super.rest) == 0 {
			s.next++
		}
	}
	s.packets.Add(uint64(n))
	return n, nil
}

func (s *socket) noteRead(full bool) {
	s.reads.Add(1)
	s.full = full
	if s.coalesce > 0 {
		s.readAt = time.Now()
	}
}

func (s *socket) readSupers(flags int) error {
	n, err := s.batch.ReadBatch(s.messages, flags)
	if err != nil {
		return err
	}
	s.noteRead(n == len(s.messages))
	s.next, s.filled = 0, n
	for i := range n {
		m, super := &s.messages[i], &s.supers[i]
		super.segmentBytes, super.control = splitControl(m.OOB[:m.NN], groLevel, groType, super.control[:0])
		if super.segmentBytes <= 0 { // a single packet
			super.segmentBytes = max(m.N, 1)
		}
		super.rest, super.from = m.Buffers[0][:m.N], m.Addr
	}
	return nil
}
