package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/lab"
)

// rival is a BitTorrent client to measure. Its processes say how far they are by files
// in their folder: "ready" when they wait for a line on standard input, after which they
// fetch or serve, and "done" with the Unix time in seconds when all is there, verified.
type rival struct {
	name       string
	pieceBytes int64
	find       func() (version string, err error) // an error says what is missing
	words      func(p post) []string              // the command line
}

// post is what one of a rival's processes is to do.
type post struct {
	torrent string // file
	seed    bool   // its folder holds the content already
}

var rivals = []rival{aria2, libtorrent}

// Rivals names the programs that a swarm can be compared with.
func Rivals() []string {
	var names []string
	for _, r := range rivals {
		names = append(names, r.name)
	}
	return names
}

func rivalNamed(name string) (rival, error) {
	for _, r := range rivals {
		if r.name == name {
			return r, nil
		}
	}
	return rival{}, starling.Invalidf("--compare", "%.40q is not known, these are: %s", name, strings.Join(Rivals(), ", "))
}

// systems of the rivals that are wanted, with notes on those that are not installed.
func (c SwarmConfig) rivals(s *stand) (out []system, notes []string, err error) {
	for _, name := range c.Compare {
		r, err := rivalNamed(name)
		if err != nil {
			return nil, nil, err
		}
		if _, err := exec.LookPath(tracker); err != nil {
			notes = append(notes, fmt.Sprintf("%s is left out: no tracker (Debian: apt-get install %s)", name, tracker))
			continue
		}
		version, err := r.find()
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s is left out: %s", name, err))
			continue
		}
		out = append(out, system{name: name, version: version, run: func(ctx context.Context, seed uint64) (*Round, error) {
			return r.round(ctx, c, s, seed)
		}})
	}
	return out, notes, nil
}

// tracker tells the peers of each other; Debian's package has the same name.
const (
	tracker     = "opentracker"
	trackerPort = 6969
)

// content is the name of the file that rivals distribute.
const content = "content"

// round distributes once. Of all processes only the machines' last step, opening the
// torrent, is measured: they have been started, and the seeds have announced themselves.
func (r rival) round(ctx context.Context, c SwarmConfig, s *stand, seed uint64) (_ *Round, err error) {
	dir, err := os.MkdirTemp(c.Dir, "starling-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := s.shape(c.RateMbit); err != nil {
		return nil, err
	}
	procs := newCrew()
	defer func() { err = errors.Join(err, procs.close()) }()
	machines, err := r.start(ctx, procs, c, s, dir, seed)
	if err != nil {
		return nil, err
	}
	before, err := usageOf(procs.pids())
	if err != nil {
		return nil, err
	}
	out, began, after := &Round{}, time.Time{}, usage{}
	recorded, err := s.watch(ctx, func(ctx context.Context) error {
		began = time.Now()
		if err := begin(machines); err != nil {
			return err
		}
		if err := waitFor(ctx, procs, machines, "done"); err != nil {
			return err
		}
		after, err = usageOf(procs.pids())
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		at, err := m.doneAt()
		if err != nil {
			return nil, err
		}
		out.DoneS = append(out.DoneS, at.Sub(began).Seconds())
	}
	out.Samples, out.RSSMBMax = recorded.since(began), after.rssMaxMB
	out.WireCopies = s.wireCopies(out.Samples, c.Bytes)
	out.finish(c.Bytes, after.cpuS-before.cpuS)
	return out, nil
}

// start brings up tracker and seeds, and the machines as far as "ready".
func (r rival) start(ctx context.Context, procs *crew, c SwarmConfig, s *stand, dir string, seed uint64) ([]*member, error) {
	first := filepath.Join(dir, "seed-1", content)
	if err := os.Mkdir(filepath.Dir(first), 0o755); err != nil {
		return nil, err
	}
	if err := writeRandom(first, c.Bytes, seed); err != nil {
		return nil, err
	}
	at := fmt.Sprintf("http://%s:%d", s.coordinator().IP, trackerPort)
	t, err := newTorrent(first, at+"/announce", r.pieceBytes)
	if err != nil {
		return nil, err
	}
	p := post{torrent: filepath.Join(dir, "torrent")}
	if err := os.WriteFile(p.torrent, t.encoded, 0o644); err != nil {
		return nil, err
	}
	if err := startTracker(procs, s.coordinator(), filepath.Join(dir, "tracker"), t); err != nil {
		return nil, err
	}
	var seeds, machines []*member
	for i, h := range s.seedHosts() {
		p, home := p, filepath.Join(dir, fmt.Sprintf("seed-%d", i+1))
		p.seed = true
		if i > 0 {
			if err := os.CopyFS(home, os.DirFS(filepath.Dir(first))); err != nil {
				return nil, err
			}
		}
		m, err := procs.start(h, home, r.words(p)...)
		if err != nil {
			return nil, err
		}
		seeds = append(seeds, m)
	}
	for i, h := range s.machineHosts() {
		m, err := procs.start(h, filepath.Join(dir, fmt.Sprintf("machine-%d", i+1)), r.words(p)...)
		if err != nil {
			return nil, err
		}
		machines = append(machines, m)
	}
	if err := waitFor(ctx, procs, append(seeds, machines...), "ready"); err != nil {
		return nil, err
	}
	// A client whose first announcement is lost may take minutes until its next.
	if err := announced(ctx, procs, s.coordinator(), at, t, 0); err != nil {
		return nil, err
	}
	if err := begin(seeds); err != nil {
		return nil, err
	}
	return machines, announced(ctx, procs, s.coordinator(), at, t, len(seeds))
}

// startTracker starts opentracker. It refuses to be root; and if it became another user by
// itself, it could outlive this process.
func startTracker(procs *crew, h lab.Host, dir string, t *torrent) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	const allowed = "allowed"
	if err := os.WriteFile(filepath.Join(dir, allowed), fmt.Appendf(nil, "%x\n", t.infoHash), 0o644); err != nil {
		return err
	}
	_, err := procs.start(h, dir, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL",
		tracker, "-i", h.IP, "-p", strconv.Itoa(trackerPort), "-w", allowed)
	return err
}

// begin lets processes that are ready go on.
func begin(members []*member) error {
	for _, m := range members {
		if _, err := io.WriteString(m.begin, "\n"); err != nil {
			return fmt.Errorf("begin %s: %w", m.name, err)
		}
	}
	return nil
}

// lookEvery is how often files and tracker are looked at; no figure depends on it.
const lookEvery = 20 * time.Millisecond

// waitFor waits until each of members has written a file.
func waitFor(ctx context.Context, procs *crew, members []*member, file string) error {
	for i := 0; i < len(members); {
		text, err := members[i].told(file)
		if err == nil && text != "" {
			i++
			continue
		}
		if err := errors.Join(err, procs.check()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not %s: %w; the end of its log:\n%s", members[i].name, file, ctx.Err(), members[i].tail())
		case <-time.After(lookEvery):
		}
	}
	return nil
}

func (m *member) doneAt() (time.Time, error) {
	text, err := m.told("done")
	if err != nil {
		return time.Time{}, err
	}
	s, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", m.name, err)
	}
	return time.UnixMicro(int64(s * 1e6)), nil
}

const (
	scrapeMaxBytes = 64 << 10 // of the tracker's answer
	announceWithin = 30 * time.Second
)

// announced waits until the tracker answers and knows so many seeds.
func announced(ctx context.Context, procs *crew, h lab.Host, at string, t *torrent, seeds int) error {
	ctx, cancel := context.WithTimeout(ctx, announceWithin)
	defer cancel()
	hc := &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
	scrape := at + "/scrape?info_hash="
	for _, b := range t.infoHash {
		scrape += fmt.Sprintf("%%%02x", b) // a tracker may not know + as a blank
	}
	for {
		if err := procs.check(); err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scrape, nil)
		if err != nil {
			return err
		}
		if resp, err := hc.Do(req); err == nil { // it may not listen yet
			b, err := io.ReadAll(io.LimitReader(resp.Body, scrapeMaxBytes))
			resp.Body.Close()
			if err == nil && completeSeeds(b) >= seeds {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the tracker does not know %d seeds: %w", seeds, ctx.Err())
		case <-time.After(lookEvery):
		}
	}
}
