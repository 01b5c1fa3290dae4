package bench

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// torrent describes one file to BitTorrent clients (BEP 3).
type torrent struct {
	encoded  []byte
	infoHash [sha1.Size]byte
}

// newTorrent hashes a file.
func newTorrent(file, announce string, pieceBytes int64) (*torrent, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pieces []byte
	size, in := int64(0), bufio.NewReaderSize(f, 1<<20)
	for {
		h := sha1.New()
		n, err := io.CopyN(h, in, pieceBytes)
		if n > 0 {
			pieces, size = h.Sum(pieces), size+n
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("torrent: %w", err)
		}
	}
	info := map[string]any{
		"length": size, "name": filepath.Base(file), "piece length": pieceBytes, "pieces": pieces,
		"private": int64(0),
	}
	return &torrent{
		encoded:  bencode(nil, map[string]any{"announce": []byte(announce), "info": info}),
		infoHash: sha1.Sum(bencode(nil, info)),
	}, nil
}

// bencode appends v, which consists of int64, string, []byte and maps of them by string.
func bencode(b []byte, v any) []byte {
	switch v := v.(type) {
	case int64:
		return fmt.Appendf(b, "i%de", v)
	case string:
		return fmt.Appendf(b, "%d:%s", len(v), v)
	case []byte:
		return fmt.Appendf(b, "%d:%s", len(v), v)
	case map[string]any:
		b = append(b, 'd')
		for _, key := range slices.Sorted(maps.Keys(v)) {
			b = bencode(bencode(b, key), v[key])
		}
		return append(b, 'e')
	}
	panic(fmt.Sprintf("bench: bencode of %T", v))
}

// completeSeeds reads from a tracker's answer to a scrape how many hold all of the only torrent.
func completeSeeds(scrape []byte) int {
	var n int
	_, rest, ok := bytes.Cut(scrape, []byte("8:completei"))
	if _, err := fmt.Sscanf(string(rest), "%de", &n); !ok || err != nil {
		return 0
	}
	return n
}
