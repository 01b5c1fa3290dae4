package raftnode

import "sync"

// sizes remembers how long the newest entries of the log are, so that the log can be
// bounded in bytes: 10,240 entries may be 10 MB or 40 GB.
type sizes struct {
	mu      sync.Mutex
	bytes   []int32 // of entry i at i % len
	last    uint64
	known   uint64 // entries up to last whose size is known, len(bytes) at most
	written int64  // bytes ever added
	at      int64  // written at the last snapshot
}

func newSizes(entries uint64) *sizes { return &sizes{bytes: make([]int32, entries)} }

// add notes an entry; one that replaces another, and those after it, counts anew.
func (s *sizes) add(index uint64, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case index == s.last+1:
		s.known = min(s.known+1, uint64(len(s.bytes)))
	case index <= s.last && s.last-index < s.known:
		s.known -= s.last - index
	default:
		s.known = 1
	}
	s.last = index
	s.bytes[index%uint64(len(s.bytes))] = int32(bytes)
	s.written += int64(bytes)
}

// trailing returns how many of the newest entries take up maxBytes together, limit at
// most. Those whose size is not known any more count as nothing.
func (s *sizes) trailing(maxBytes int64, limit uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(0)
	for ; n < min(s.known, limit); n++ {
		maxBytes -= int64(s.bytes[(s.last-n)%uint64(len(s.bytes))])
		if maxBytes < 0 {
			return n
		}
	}
	return limit // all that is known fits
}

// sinceSnapshot returns the bytes added since snapshotted was last called.
func (s *sizes) sinceSnapshot() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written - s.at
}

func (s *sizes) snapshotted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = s.written
}
