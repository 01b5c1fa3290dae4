package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
)

// Bounds of what is remembered of others.
const (
	maxPeers         = 32 // live members whose addresses are kept
	maxPeerFileBytes = 16 << 10
	peersEvery       = time.Second // between two writes at least
)

// readPeers returns the remembered gossip addresses; none if there is no file yet.
func readPeers(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("gossip peers: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("gossip peers: %w", err)
	}
	defer f.Close() // only read
	b, err := io.ReadAll(io.LimitReader(f, maxPeerFileBytes))
	if err != nil {
		return nil, fmt.Errorf("gossip peers: read %s: %w", path, err)
	}
	var peers []string
	if err := json.Unmarshal(b, &peers); err != nil {
		return nil, fmt.Errorf("gossip peers: %s is not a JSON list of addresses (delete it to begin with join alone): %w", path, err)
	}
	return peers[:min(len(peers), maxPeers)], nil
}

// keepPeers writes down where some of the live members are, whenever one of those is
// lost or there are fewer than maxPeers. Serf's own snapshot does not do: it
// reaches the disk with the next event only, and a process that is killed forgets whom
// it knew.
func (p *Pool) keepPeers(ctx context.Context) {
	failed := false
	for {
		changed := p.Changed()
		peers, news := p.choosePeers(p.peers)
		if news && len(peers) > 0 {
			b, err := json.Marshal(peers)
			if err == nil {
				err = renameio.WriteFile(p.conf.PeersFile, append(b, '\n'), 0o600)
			}
			switch {
			case err == nil:
				p.peers, failed = peers, false
			case !failed:
				failed = true
				p.logger.Error("cannot remember other members; a restart will rely on join", "error", err)
			}
		}
		timer := time.NewTimer(peersEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// choosePeers keeps those of old that live, fills up with others, and says whether that
// is another list.
func (p *Pool) choosePeers(old []string) (peers []string, news bool) {
	var alive []string
	for _, m := range p.serf.Members() {
		if m.Name != p.conf.Node.Name && stateOf(m.Status) == StateAlive {
			alive = append(alive, net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port))))
		}
	}
	slices.Sort(alive)
	for _, a := range old {
		if _, ok := slices.BinarySearch(alive, a); ok {
			peers = append(peers, a)
		}
	}
	news = len(peers) < len(old)
	rand.Shuffle(len(alive), func(i, j int) { alive[i], alive[j] = alive[j], alive[i] })
	for _, a := range alive {
		if len(peers) >= maxPeers {
			break
		}
		if !slices.Contains(peers, a) {
			peers, news = append(peers, a), true
		}
	}
	return peers, news
}

// rejoin tries the remembered members, one after the other, until one answers.
func (p *Pool) rejoin(ctx context.Context, peers []string) (n int, err error) {
	for _, i := range rand.Perm(len(peers)) {
		if n, err = p.join(ctx, peers[i:i+1]); n > 0 || ctx.Err() != nil {
			return n, err
		}
	}
	return 0, err
}
