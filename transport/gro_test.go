package transport

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// cmsg builds one control message as the kernel does.
func cmsg(level, kind int32, data []byte) []byte {
	b := make([]byte, cmsgHeaderBytes, 64)
	binary.NativeEndian.PutUint64(b, uint64(cmsgHeaderBytes+len(data)))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	b = append(b, data...)
	for len(b)%cmsgWordBytes != 0 {
		b = append(b, 0)
	}
	return b
}

func segmentSize(n int32) []byte {
	return cmsg(groLevel, groType, binary.NativeEndian.AppendUint32(nil, uint32(n)))
}

func TestSplitControl(t *testing.T) {
	tos := cmsg(unix.IPPROTO_IP, unix.IP_TOS, []byte{2})
	info := cmsg(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 12))
	for name, tc := range map[string]struct {
		in, rest []byte
		size     int
	}{
		"nothing":           {nil, nil, 0},
		"size alone":        {segmentSize(1252), nil, 1252},
		"size first":        {concat(segmentSize(1252), tos, info), concat(tos, info), 1252},
		"size in between":   {concat(tos, segmentSize(1452), info), concat(tos, info), 1452},
		"size last":         {concat(tos, info, segmentSize(9)), concat(tos, info), 9},
		"no size":           {concat(tos, info), concat(tos, info), 0},
		"last not padded":   {tos[:cmsgHeaderBytes+1], tos[:cmsgHeaderBytes+1], 0},
		"cut short":         {concat(tos, segmentSize(7)[:10]), tos, 0},
		"size without data": {cmsg(groLevel, groType, nil), nil, 0},
		"negative":          {segmentSize(-1), nil, -1},
	} {
		size, rest := splitControl(tc.in, groLevel, groType, nil)
		if size != tc.size || !bytes.Equal(rest, tc.rest) {
			t.Errorf("%s: %d, %x, want %d, %x", name, size, rest, tc.size, tc.rest)
		}
	}
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// The kernel's own parser must agree with ours.
func TestSplitControlAgainstUnix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in, want []byte
		size := 0
		for range rapid.IntRange(0, 4).Draw(t, "messages") {
			data := rapid.SliceOfN(rapid.Byte(), 4, 20).Draw(t, "data")
			if rapid.Bool().Draw(t, "is size") {
				in = append(in, cmsg(groLevel, groType, data)...)
				size = int(int32(binary.NativeEndian.Uint32(data)))
			} else {
				other := cmsg(unix.IPPROTO_IP, unix.IP_TOS, data)
				in, want = append(in, other...), append(want, other...)
			}
		}
		if _, err := unix.ParseSocketControlMessage(in); err != nil {
			t.Fatal(err)
		}
		got, rest := splitControl(in, groLevel, groType, nil)
		if got != size || !bytes.Equal(rest, want) {
			t.Fatalf("%d, %x, want %d, %x", got, rest, size, want)
		}
	})
}

// FuzzGRO: any super-datagram is handed out in full and in order, in segments of the stated size but
// for the last, whatever the control messages say.
func FuzzGRO(f *testing.F) {
	f.Add([]byte("0123456789"), segmentSize(3), 2)
	f.Add([]byte("0123456789"), segmentSize(0), 8)
	f.Add([]byte{}, []byte{}, 1)
	f.Add([]byte("x"), segmentSize(-5), 3)
	f.Add([]byte("abc"), concat(cmsg(0, 1, []byte{1}), segmentSize(2)), 1)
	f.Fuzz(func(t *testing.T, payload, control []byte, batch int) {
		if len(payload) > maxSuperDatagramBytes || len(control) > controlBytes {
			t.Skip()
		}
		batch = 1 + max(batch, -batch)&15
		from := &net.UDPAddr{Port: 1}
		s := newTestSocket(fakeBatch{{payload, control, from}, {payload, control, from}})
		size, _ := splitControl(control, groLevel, groType, nil)
		if size <= 0 {
			size = max(len(payload), 1)
		}
		var got []byte
		for packets := 0; ; {
			ms := emptyMessages(batch, len(payload))
			n, err := s.ReadBatch(ms, 0)
			if err != nil || n < 1 || n > batch {
				t.Fatalf("%d packets, %v", n, err)
			}
			for _, m := range ms[:n] {
				packets++
				last := len(got)%max(len(payload), 1)+m.N == len(payload)
				if m.N > size || m.N < size && !last || m.Addr != from || m.NN > controlBytes {
					t.Fatalf("packet %d: %d bytes of %d, %d of control", packets, m.N, size, m.NN)
				}
				got = append(got, m.Buffers[0][:m.N]...)
			}
			if packets == 2*max(1, (len(payload)+size-1)/size) {
				break
			}
		}
		if !bytes.Equal(got, concat(payload, payload)) {
			t.Fatal("the bytes differ")
		}
	})
}

// fakeBatch is what the kernel has to deliver.
type fakeBatch []struct {
	payload, control []byte
	from             net.Addr
}

func (f fakeBatch) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	n := min(len(f), len(ms))
	for i := range n {
		ms[i].N = copy(ms[i].Buffers[0], f[i].payload)
		ms[i].NN = copy(ms[i].OOB, f[i].control)
		ms[i].Addr = f[i].from
	}
	return n, nil
}

func newTestSocket(b batchReader) *socket {
	s := &socket{batch: b}
	s.useGRO()
	return s
}

func emptyMessages(n, bufferBytes int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, bufferBytes)}
		ms[i].OOB = make([]byte, controlBytes)
	}
	return ms
}

// The real kernel merges what was sent in segments, and every packet comes out with the
// control messages that quic-go asks for.
func TestGROByKernel(t *testing.T) {
	s, err := bind(&Config{Bind: "127.0.0.1:0", Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !s.gro {
		t.Skip("this kernel does not merge received packets")
	}
	if err := withFD(s.UDPConn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.bound()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var want []byte
	for i := range 10 {
		want = append(want, bytes.Repeat([]byte{byte(i)}, 1000)...)
	}
	want = append(want, "short"...)
	segment := cmsg(unix.SOL_UDP, unix.UDP_SEGMENT, binary.NativeEndian.AppendUint16(nil, 1000))
	if _, _, err := c.WriteMsgUDP(want, segment, nil); err != nil {
		t.Skipf("no segmentation on sending: %v", err)
	}
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for packets := 0; len(got) < len(want); {
		ms := emptyMessages(4, 1452)
		n, err := s.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			packets++
			if m.N != 1000 && packets != 11 {
				t.Errorf("packet %d has %d bytes", packets, m.N)
			}
			if m.Addr.String() != c.LocalAddr().String() {
				t.Errorf("from %s", m.Addr)
			}
			hdr, _, _, err := unix.ParseOneSocketControlMessage(m.OOB[:m.NN])
			if err != nil || hdr.Level != unix.IPPROTO_IP || hdr.Type != unix.IP_TOS {
				t.Errorf("packet %d: control %+v, %v", packets, hdr, err)
			}
			got = append(got, m.Buffers[0][:m.N]...)
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
	if n := s.reads.Load(); n != 1 {
		t.Errorf("%d reads", n)
	}
	if err := s.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	_, err = s.ReadBatch(emptyMessages(1, 1452), 0)
	if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() { // quic-go asserts the type
		t.Errorf("got %v", err)
	}
}
