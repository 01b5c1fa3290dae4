package artifact

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"os"

	"github.com/starlingdeploy/starling"
)

// bitset is a fixed number of bits, bit i at byte i/8, lowest first.
type bitset []byte

func newBitset(n int) bitset { return make(bitset, (n+7)/8) }

func (b bitset) get(i int) bool { return b[i/8]&(1<<(i%8)) != 0 }
func (b bitset) set(i int)      { b[i/8] |= 1 << (i % 8) }
func (b bitset) clear(i int)    { b[i/8] &^= 1 << (i % 8) }
func (b bitset) clone() bitset  { return bytes.Clone(b) }

func (b bitset) count() int {
	n := 0
	for _, x := range b {
		n += bits.OnesCount8(x)
	}
	return n
}

// haveState is the content of haveFile.
//
//	magic    4 bytes  "SHV1"
//	flags    1 byte   bit 0: finished
//	artifact 32 bytes
//	chunks   4 bytes  big endian
//	have     (chunks+7)/8 bytes, spare bits zero
//	crc      4 bytes  IEEE CRC-32 of all before, big endian
type haveState struct {
	artifact starling.Digest
	chunks   int
	finished bool
	have     bitset
}

const (
	haveMagic        = "SHV1"
	haveHeaderBytes  = 4 + 1 + 32 + 4
	haveTrailerBytes = 4
	haveFlagFinished = 1
)

func (s haveState) encode() []byte {
	b := make([]byte, 0, haveHeaderBytes+len(s.have)+haveTrailerBytes)
	b = append(b, haveMagic...)
	var flags byte
	if s.finished {
		flags |= haveFlagFinished
	}
	b = append(b, flags)
	b = append(b, s.artifact[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(s.chunks))
	b = append(b, s.have...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodeHave(b []byte) (haveState, error) {
	var s haveState
	if len(b) < haveHeaderBytes+haveTrailerBytes || string(b[:4]) != haveMagic {
		return s, fmt.Errorf("%s: %w: not a chunk map", haveFile, starling.ErrCorrupt)
	}
	body, sum := b[:len(b)-haveTrailerBytes], binary.BigEndian.Uint32(b[len(b)-haveTrailerBytes:])
	if crc32.ChecksumIEEE(body) != sum {
		return s, fmt.Errorf("%s: %w: checksum does not match", haveFile, starling.ErrCorrupt)
	}
	s.finished = body[4]&haveFlagFinished != 0
	copy(s.artifact[:], body[5:])
	n := binary.BigEndian.Uint32(body[37:])
	s.have = bitset(body[haveHeaderBytes:])
	if n > starling.MaxChunks || len(s.have) != (int(n)+7)/8 {
		return s, fmt.Errorf("%s: %w: %d chunks in %d bytes", haveFile, starling.ErrCorrupt, n, len(s.have))
	}
	s.chunks = int(n)
	if spare := s.chunks % 8; spare != 0 && s.have[len(s.have)-1]>>spare != 0 {
		return s, fmt.Errorf("%s: %w: bits beyond the last chunk", haveFile, starling.ErrCorrupt)
	}
	if s.finished && s.have.count() != s.chunks {
		return s, fmt.Errorf("%s: %w: finished but incomplete", haveFile, starling.ErrCorrupt)
	}
	return s, nil
}

// readHave reads haveFile; ErrNotFound if there is none.
func readHave(dir *os.Root, chunks int) (haveState, error) {
	f, err := dir.Open(haveFile)
	if errors.Is(err, fs.ErrNotExist) {
		return haveState{}, fmt.Errorf("%s: %w", haveFile, starling.ErrNotFound)
	} else if err != nil {
		return haveState{}, err
	}
	defer f.Close()
	limit := haveHeaderBytes + (chunks+7)/8 + haveTrailerBytes
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return haveState{}, fmt.Errorf("read %s: %w", haveFile, err)
	}
	return decodeHave(b)
}

// writeHave replaces haveFile so that a crash leaves the old or the new one.
func writeHave(dir *os.Root, s haveState) error {
	const temp = haveFile + ".tmp"
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(s.encode())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", haveFile, err)
	}
	if err := dir.Rename(temp, haveFile); err != nil {
		return err
	}
	return syncPath(dir, ".")
}
