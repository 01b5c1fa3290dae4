package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/bench/trial"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/lab"
	"github.com/starlingdeploy/starling/world"
)

// SwarmConfig measures how one artifact reaches many machines, each a process on a
// host of its own: a network namespace, or without root the loopback.
type SwarmConfig struct {
	Bin      string // the starling binary
	Machines int
	Caches   int // which hold the artifact at first; 0: 1
	Bytes    int64
	RateMbit int // of each cache's and machine's link, in each direction; 0: unshaped
	CapMbit  int // upload and download limit that caches and machines are told to keep; 0: none
	Rounds   int // of each system, in turns; 0: 1
	Seed     uint64
	Dir      string        // where the data goes; "": where temporary files go
	Compare  []string      // other programs to measure beside it, see Rivals
	Faults   []Fault       // befall Starling only; not with Delta
	Delta    float64       // over 0: a second artifact with this share of the bytes changed follows
	Simulate bool          // the same in the simulator, too
	CellSize int           // machines of a cell at most, whose memory is then told; 0: one cell
	Rest     time.Duration // of the machines, before they are watched idle; only with CellSize
	Tell     trial.Progress
}

// SwarmResult is its result. Times count from the moment the machines may fetch to the
// moment a machine holds every byte, verified. Figures are medians over the rounds.
type SwarmResult struct {
	Machines    int     `json:"machines"`
	Bytes       int64   `json:"bytes"`
	RateMbit    int     `json:"rate_mbit"` // per link; 0: unshaped
	BoundS      float64 `json:"bound_s"`   // the time of the content over one link; 0: unshaped
	LastS       float64 `json:"last_s"`
	MedianS     float64 `json:"median_s"`
	DurableS    float64 `json:"durable_s"` // the last machine has synced all to disk as well
	MBPerS      float64 `json:"mb_per_s"`  // all machines together, 10^6 bytes
	CPUSPerGB   float64 `json:"cpu_s_per_gb"`
	CacheCopies float64 `json:"cache_copies"` // of the artifact's content that left the caches
	RSSMBMax    float64 `json:"rss_mb_max"`   // the largest machine or cache, of all rounds
	Network     string  `json:"network"`

	Computer trial.Computer `json:"computer"`

	Cap    *CapResult     `json:"cap,omitempty"`    // of all rounds
	Cells  *CellsResult   `json:"cells,omitempty"`  // of the last round
	Delta  *DeltaResult   `json:"delta,omitempty"`  // of the round with the median ratio
	Faults []*FaultResult `json:"faults,omitempty"` // of the last round

	Simulated *SimulatedResult `json:"simulated,omitempty"`

	Spreads map[string]Spread      `json:"spreads"`         // last_s and cpu_s_per_gb with min and max
	Peers   map[string]*PeerResult `json:"peers,omitempty"` // rivals by name
	Notes   []string               `json:"notes,omitempty"`
	Rounds  []*Round               `json:"rounds"`
}

// PeerResult is a rival's figures, medians over the rounds.
type PeerResult struct {
	Version    string            `json:"version"`
	LastS      float64           `json:"last_s"`
	MedianS    float64           `json:"median_s"`
	CPUSPerGB  float64           `json:"cpu_s_per_gb"`
	WireCopies float64           `json:"wire_copies"`
	RSSMBMax   float64           `json:"rss_mb_max"`
	Spreads    map[string]Spread `json:"spreads"`
}

// Check refuses what cannot be measured.
func (c SwarmConfig) Check() error {
	for _, name := range c.Compare {
		if _, err := rivalNamed(name); err != nil {
			return err
		}
	}
	switch {
	case c.RateMbit < 0:
		return starling.Invalidf("--rate", "must not be negative")
	case c.CapMbit < 0:
		return starling.Invalidf("--cap", "must not be negative")
	case c.CellSize != 0 && (c.CellSize < 3 || c.CellSize > starling.MaxCellMachines):
		return starling.Invalidf("--cell-size", "must be 0, or between 3 and %d", starling.MaxCellMachines)
	case c.Rest < 0:
		return starling.Invalidf("--rest", "must not be negative")
	case c.Rounds < 1 || c.Caches < 1 || c.Machines < 1 || c.Bytes < 1:
		return starling.Invalidf("--rounds", "rounds, caches, machines and bytes must be 1 or more")
	case c.Delta < 0 || c.Delta > MaxDelta:
		return starling.Invalidf("--delta", "must be between 0%% and %.0f%%", MaxDelta*100)
	case c.Delta > 0 && len(c.Faults) > 0:
		return starling.Invalidf("--delta", "is measured without faults")
	}
	if err := c.checkSimulated(); err != nil {
		return err
	}
	_, err := victims(c.Faults, c.Machines, c.Caches, c.Seed)
	return err
}

// Run measures all rounds. In a lab (see lab.Isolate) the hosts are network namespaces.
func (c SwarmConfig) Run(ctx context.Context) (_ *SwarmResult, failed error) {
	c.Caches, c.Rounds = max(c.Caches, 1), max(c.Rounds, 1)
	if err := c.Check(); err != nil {
		return nil, err
	}
	res := &SwarmResult{Machines: c.Machines, Bytes: c.Bytes, RateMbit: c.RateMbit, Network: "loopback", Computer: trial.ThisComputer()}
	if c.RateMbit > 0 {
		res.BoundS = float64(c.Bytes) * 8 / 1e6 / float64(c.RateMbit)
	}
	var s *stand
	if lab.Isolated() {
		var err error
		if s, err = newStand(c.Caches, c.Machines); err != nil {
			return nil, err
		}
		defer func() { failed = errors.Join(failed, s.lab.Down()) }()
		res.Network = s.String()
	} else if c.RateMbit > 0 || len(c.Compare) > 0 || len(c.Faults) > 0 || c.CapMbit > 0 {
		return nil, starling.Invalidf("--rate", "shaped links, caps, rivals and faults need network namespaces: run as root on Linux")
	}
	systems, notes, err := c.systems(s)
	if err != nil {
		return nil, err
	}
	res.Notes = notes
	for i := range c.Rounds {
		for k, system := range systems {
			c.Tell.Tell("starting "+system.name, float64(i*len(systems)+k), float64(c.Rounds*len(systems)), "rounds")
			r, err := system.run(ctx, c.Seed+uint64(i))
			if err != nil {
				err = fmt.Errorf("%s, round %d: %w", system.name, i+1, err)
			}
			if err != nil && system.name != ours && ctx.Err() == nil { // ours stand without it
				res.Notes = append(res.Notes, err.Error())
				continue
			} else if err != nil {
				return nil, err
			}
			r.System = system.name
			res.Rounds = append(res.Rounds, r)
		}
	}
	res.sumUp(systems)
	if c.Simulate {
		if res.Simulated, err = c.simulated(res); err != nil {
			return nil, err
		}
	}
	res.Cap = capResult(c.CapMbit, c.Caches, res.Rounds)
	return res, nil
}

// system is one program to measure.
type system struct {
	name, version string
	run           func(ctx context.Context, seed uint64) (*Round, error)
}

const ours = "starling"

// systems lists what is to be measured, with notes on rivals that are not here.
func (c SwarmConfig) systems(s *stand) ([]system, []string, error) {
	us := system{name: ours, run: func(ctx context.Context, seed uint64) (*Round, error) { return c.round(ctx, s, seed) }}
	rivals, notes, err := c.rivals(s)
	return append([]system{us}, rivals...), notes, err
}

func (res *SwarmResult) sumUp(systems []system) {
	for _, s := range systems {
		figure := func(f func(*Round) float64) Spread { return spread(res.Rounds, s.name, f) }
		last := figure(func(r *Round) float64 { return r.LastS })
		cpu := figure(func(r *Round) float64 { return r.CPUSPerGB })
		median := figure(func(r *Round) float64 { return r.MedianS }).Median
		spreads := map[string]Spread{"last_s": last, "cpu_s_per_gb": cpu}
		rss := figure(func(r *Round) float64 { return r.RSSMBMax }).Max
		if s.name != ours {
			if last.Median == 0 { // it never came to the end
				continue
			}
			if res.Peers == nil {
				res.Peers = map[string]*PeerResult{}
			}
			res.Peers[s.name] = &PeerResult{
				Version: s.version, LastS: last.Median, MedianS: median, CPUSPerGB: cpu.Median, RSSMBMax: rss, Spreads: spreads,
				WireCopies: figure(func(r *Round) float64 { return r.WireCopies }).Median,
			}
			continue
		}
		res.LastS, res.MedianS, res.CPUSPerGB, res.RSSMBMax, res.Spreads = last.Median, median, cpu.Median, rss, spreads
		res.DurableS = figure(func(r *Round) float64 { return r.DurableS }).Median
		res.CacheCopies = figure(func(r *Round) float64 { return r.CacheCopies }).Median
		res.Delta = medianDelta(res.Rounds)
		for _, r := range res.Rounds {
			if r.System == ours {
				res.Faults, res.Cells = r.Faults, r.Cells
			}
		}
		if res.LastS > 0 {
			res.MBPerS = float64(res.Bytes) * float64(res.Machines) / 1e6 / res.LastS
		}
	}
}

// medianDelta returns the delta with the median ratio, nil if there is none.
func medianDelta(rounds []*Round) *DeltaResult {
	var all []*DeltaResult
	for _, r := range rounds {
		if r.Delta != nil {
			all = append(all, r.Delta)
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *DeltaResult) int { return cmp.Compare(a.MovedRatio, b.MovedRatio) })
	return all[(len(all)-1)/2]
}

// round runs Starling once: it starts a world, pushes random content, shapes the
// links, deploys, and stops the world.
func (c SwarmConfig) round(ctx context.Context, s *stand, seed uint64) (*Round, error) {
	var hosts []world.Host
	if s != nil {
		if err := s.shape(0); err != nil {
			return nil, err
		}
		for _, h := range s.lab.Hosts() {
			hosts = append(hosts, world.Host{IP: h.IP, Prefix: h.Prefix(), Dial: h.Dial})
		}
	}
	size := world.Size{Regions: 1, Servers: 1, Caches: c.Caches, Machines: c.Machines, CapMbit: c.CapMbit}
	if c.CellSize > 0 {
		size.CellMax, size.CellQuiet = c.CellSize, benchQuiet
	}
	r := &Round{}
	err := inWorld(ctx, c.Bin, c.Dir, size, c.Tell, func(w *world.World, api *client.Client) error {
		c.Tell.Tell("pushing the artifact", 0, 0, "")
		record, err := pushRandom(ctx, api, w.Dir, c.Bytes, seed, nil)
		if err != nil {
			return err
		}
		if _, err := api.ApplyApp(ctx, benchApp(len(c.Faults) > 0), nil); err != nil {
			return err
		}
		a := newAccount(w.Procs)
		faults, err := newInjector(c, s, w, a, seed)
		if err != nil {
			return err
		}
		d := &distribution{cfg: c, stand: s, world: w, api: api, artifact: record.Digest, account: a, faults: faults, round: r}
		if err := errors.Join(d.run(ctx), faults.release()); err != nil {
			return err
		}
		if c.CellSize > 0 {
			if r.Cells, err = c.measureCells(ctx, s, w, api); err != nil {
				return err
			}
		}
		if c.Delta == 0 {
			return nil
		}
		r.Delta, err = d.runDelta(ctx, seed)
		return err
	}, hosts...)
	return r, err
}

// pushRandom stores random content of n bytes, which edit (nil: nobody) may change, as an artifact.
func pushRandom(ctx context.Context, api *client.Client, dir string, n int64, seed uint64, edit func(name string) error) (*starling.Artifact, error) {
	content := filepath.Join(dir, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(content)
	blob := filepath.Join(content, "blob")
	if err := writeRandom(blob, n, seed); err != nil {
		return nil, err
	}
	if edit != nil {
		if err := edit(blob); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(content)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	m, err := artifact.Pack(ctx, root, func(p artifact.Piece) error { return api.PutChunk(ctx, p.Digest, p.Data) })
	if err != nil {
		return nil, err
	}
	encoded, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return api.RegisterArtifact(ctx, "", encoded)
}
