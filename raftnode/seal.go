package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// bbolt keeps no checksum of its data pages, so that a bit which flips in the log is
// not seen. Therefore each entry carries a seal in its Extensions, which
// hashicorp/raft stores and replicates and does not read, and each value of Raft's own
// state (term, vote) ends with one. Both can be read by programs that know of no seals,
// which ignore the first and read 8 bytes of the second; and what such programs wrote
// is accepted without one.
//
//	entry: "SL" 1 0, CRC-32C of index, term, type and data, 4 bytes big-endian
//	value: value, "SV" 1 0, CRC-32C of key, 0 and value, 4 bytes big-endian
//
// CRC-32C finds every error of up to 32 neighbouring bits. A flip that hides a seal has
// left what it seals alone.
const (
	entrySealMark = "SL\x01\x00"
	valueSealMark = "SV\x01\x00"
	sealBytes     = 8
)

// entrySeal returns the seal of an entry.
func entrySeal(l *raft.Log) []byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(head[:], table), table, l.Data)
	return binary.BigEndian.AppendUint32([]byte(entrySealMark), sum)
}

// checkEntry returns starling.ErrCorrupt if an entry is not the one that was stored at
// an index, and whether it is sealed.
func checkEntry(index uint64, l *raft.Log) (sealed bool, err error) {
	switch {
	case l.Index != index:
		return false, fmt.Errorf("%w: log entry %d calls itself %d", starling.ErrCorrupt, index, l.Index)
	case l.Term == 0:
		return false, fmt.Errorf("%w: log entry %d has no term", starling.ErrCorrupt, index)
	case l.Type > raft.LogConfiguration:
		return false, fmt.Errorf("%w: log entry %d is of the unknown type %d", starling.ErrCorrupt, index, l.Type)
	case len(l.Extensions) == 0:
		return false, nil
	case string(l.Extensions) != string(entrySeal(l)):
		return false, fmt.Errorf("%w: log entry %d does not match its checksum", starling.ErrCorrupt, index)
	}
	return true, nil
}

// sealValue returns a value of the stable store with its seal.
func sealValue(key, value []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(append(append([]byte{}, key...), 0), table), table, value)
	out := append(append(make([]byte, 0, len(value)+sealBytes), value...), valueSealMark...)
	return binary.BigEndian.AppendUint32(out, sum)
}

// openValue takes the seal off a stored value.
func openValue(key, stored []byte) ([]byte, error) {
	n := len(stored) - sealBytes
	if n < 0 || string(stored[n:n+len(valueSealMark)]) != valueSealMark {
		return stored, nil // by an older program
	}
	if value := stored[:n]; string(sealValue(key, value)) == string(stored) {
		return value, nil
	}
	return nil, fmt.Errorf("%w: the value of %s does not match its checksum", starling.ErrCorrupt, key)
}

// logs is what Raft sees of the log: it seals what is written and checks what is read,
// cached or not, and refuses to write when there is no room left.
type logs struct {
	raft.LogStore // a cache on disk
	disk          *disk
	sizes         *sizes
	covered       func(index uint64) bool // by a snapshot
}

// IsMonotonic implements raft.MonotonicLogStore: when Raft takes a snapshot over, it
// drops the log before it, rather than leave a gap. After a restore that is 2^32 wide.
func (s *logs) IsMonotonic() bool { return true }

// GetLog implements raft.LogStore. An entry that is damaged ends Raft on this server.
func (s *logs) GetLog(index uint64, l *raft.Log) error {
	err := s.LogStore.GetLog(index, l)
	switch {
	case errors.Is(err, raft.ErrLogNotFound):
		if err := s.missing(index); err != nil {
			return s.disk.halt(err)
		}
		return raft.ErrLogNotFound
	case err != nil:
		return s.disk.halt(err)
	}
	if _, err := checkEntry(index, l); err != nil {
		return s.disk.halt(err)
	}
	return nil
}

// missing returns an error if the log should hold the entry that it does not.
func (s *logs) missing(index uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	if first != 0 && first <= index && index <= last && !s.covered(index) {
		return fmt.Errorf("%w: log entry %d of %d to %d is missing", starling.ErrCorrupt, index, first, last)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *logs) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. An entry that came with a wrong seal was damaged
// on its way and is not stored; the leader sends it again.
func (s *logs) StoreLogs(in []*raft.Log) error {
	if err := s.disk.writable(); err != nil {
		return err
	}
	out := make([]*raft.Log, len(in))
	for i, l := range in {
		sealed := *l
		if ok, err := checkEntry(l.Index, l); err != nil {
			return fmt.Errorf("refuse what was to be stored: %w", err)
		} else if !ok {
			sealed.Extensions = entrySeal(l)
		}
		out[i] = &sealed
	}
	if err := s.LogStore.StoreLogs(out); err != nil {
		return err
	}
	for _, l := range out {
		s.sizes.add(l.Index, len(l.Data))
	}
	return nil
}

// stable is Raft's term and vote, sealed. What cannot be read or written ends Raft on
// this server: it must not vote by a memory that it cannot trust.
type stable struct{ disk *disk }

// Set implements raft.StableStore.
func (s stable) Set(key, value []byte) error {
	if err := s.disk.Set(key, sealValue(key, value)); err != nil {
		return s.disk.halt(err)
	}
	return nil
}

// Get implements raft.StableStore.
func (s stable) Get(key []byte) ([]byte, error) {
	stored, err := s.disk.Get(key)
	if err != nil {
		if err.Error() == keyNotFound {
			return nil, err // Raft compares the text
		}
		return nil, s.disk.halt(err)
	}
	value, err := openValue(key, stored)
	if err != nil {
		return nil, s.disk.halt(err)
	}
	return value, nil
}

// SetUint64 implements raft.StableStore.
func (s stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore.
func (s stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, s.disk.halt(fmt.Errorf("%w: the value of %s has %d bytes, not 8", starling.ErrCorrupt, key, len(value)))
	}
	return binary.BigEndian.Uint64(value), nil
}
