package raftfsm

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// A snapshot is lines of JSON: a header, one line for each record in order of table
// and key, and a trailer with the SHA-256 of all bytes before it. The same state
// always gives the same bytes. The version in the header is the level in use: what has
// come with a higher level leaves no lines before that.
const (
	snapshotFormat = "starling-state"

	// MaxRecordBytes bounds one line of a snapshot.
	MaxRecordBytes = 8 << 20

	snapshotBufferBytes = 64 << 10
)

type header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Region  string `json:"region"`
}

type trailer struct {
	Records int             `json:"records"`
	Sum     starling.Digest `json:"sha256"`
}

// line is one record.
type line struct {
	Table string          `json:"t"`
	Mod   uint64          `json:"mod,omitempty"`
	Seq   uint64          `json:"seq,omitempty"`
	Rec   json.RawMessage `json:"rec"`
}

// stored is what a snapshot keeps of each table, in this order.
func stored() []string {
	return []string{tableMeta, tableHomes, tableRegions, tableApps, tableArtifacts, tableBuilds, tablePlaced,
		tableDeployments, tableGoals, tableReleases, tableTokens, tableEvents,
		tableTakeovers, tableBallots, tableUnseen, tableHistory, tableCells, tableJoinTokens, tableMachines, tableWebhooks, tableSinks}
}

// snapshot is a state on its way to disk.
type snapshot struct{ view View }

var _ raft.FSMSnapshot = snapshot{}

// Persist implements raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.view.WriteSnapshot(sink); err != nil {
		return errors.Join(fmt.Errorf("persist snapshot: %w", err), sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("persist snapshot: %w", err)
	}
	return nil
}

// Release implements raft.FSMSnapshot: the garbage collector does it.
func (snapshot) Release() {}

// WriteSnapshot writes the whole state in the form that FSM.Restore reads.
func (v View) WriteSnapshot(w io.Writer) error {
	sum := sha256.New()
	buf := bufio.NewWriterSize(w, snapshotBufferBytes)
	out := io.MultiWriter(buf, sum)
	text, err := json.Marshal(header{snapshotFormat, v.Level(), v.region})
	if err != nil {
		return err
	}
	if _, err := out.Write(append(text, '\n')); err != nil {
		return err
	}
	records := 0
	for _, table := range stored() {
		for o := range v.txn.scan(table, byID, nil) {
			if text, err = o.(liner).appendLine(text[:0], table); err != nil {
				return fmt.Errorf("table %s: %w", table, err)
			}
			if _, err := out.Write(text); err != nil {
				return err
			}
			records++
		}
	}
	end, err := trailerLine(records, sum)
	if err != nil {
		return err
	}
	if _, err := buf.Write(end); err != nil {
		return err
	}
	return buf.Flush()
}

func trailerLine(records int, sum hash.Hash) ([]byte, error) {
	b, err := json.Marshal(trailer{records, starling.Digest(sum.Sum(nil))})
	return append(b, '\n'), err
}

// liner is a row of any table.
type liner interface {
	appendLine(b []byte, table string) ([]byte, error)
}

// appendLine appends a line as encoding/json would write it, in half the time: the record
// is large and need not be looked through twice.
func (r *row[T]) appendLine(b []byte, table string) ([]byte, error) {
	rec, err := json.Marshal(r.rec)
	if err != nil {
		return b, err
	}
	b = append(b, `{"t":"`...)
	b = append(b, table...)
	b = append(b, '"')
	if r.mod != 0 {
		b = strconv.AppendUint(append(b, `,"mod":`...), r.mod, 10)
	}
	if r.seq != 0 {
		b = strconv.AppendUint(append(b, `,"seq":`...), r.seq, 10)
	}
	b = append(b, `,"rec":`...)
	return append(append(b, rec...), "}\n"...), nil
}

func insertLine[T any](x *txn, l *line) error {
	r := &row[T]{rec: new(T), mod: l.Mod, seq: l.Seq}
	if err := json.Unmarshal(l.Rec, r.rec); err != nil {
		return err
	}
	return x.insert(l.Table, r)
}

// insertSegment is insertLine for segments, whose views rely on what is in them.
func insertSegment(x *txn, l *line) error {
	r := &row[Segment]{rec: new(Segment), mod: l.Mod, seq: l.Seq}
	if err := json.Unmarshal(l.Rec, r.rec); err != nil {
		return err
	}
	if err := soundSegment(r.rec); err != nil {
		return err
	}
	return x.insert(l.Table, r)
}

// readSnapshot reads a snapshot of a region, with "" of any, into a new database. It
// returns the region that the snapshot names.
func readSnapshot(rd io.Reader, region string) (*database, meta, string, error) {
	in := newLineReader(rd)
	h, err := in.header()
	if err != nil {
		return nil, meta{}, "", err
	}
	region = cmp.Or(region, h.Region)
	if err := h.check(region); err != nil {
		return nil, meta{}, "", err
	}
	db := newDB()
	t := begin(db, region, defaultLimits(), 0)
	defer t.txn.abort()
	if err := in.records(t.txn); err != nil {
		return nil, meta{}, "", err
	}
	t.rebuildLanes()
	t.rebuildKeys()
	t.rebuildRoster()
	if t.err != nil {
		return nil, meta{}, "", t.err
	}
	var m meta
	if r := get[meta](t.reader, tableMeta, byID, strKey(tableMeta)); r != nil {
		m = *r.rec
	}
	t.txn.commit()
	return db, m, region, nil
}

// lineReader reads lines and sums up what it has handed out.
type lineReader struct {
	r     *bufio.Reader
	sum   hash.Hash
	count int
}

func newLineReader(rd io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(rd, snapshotBufferBytes), sum: sha256.New()}
}

func (in *lineReader) next() ([]byte, error) {
	var b []byte
	for {
		part, err := in.r.ReadSlice('\n')
		if len(b)+len(part) > MaxRecordBytes {
			return nil, fmt.Errorf("%w: a line is longer than %d bytes", starling.ErrCorrupt, MaxRecordBytes)
		}
		b = append(b, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: it ends too early", starling.ErrCorrupt)
		default:
			return b, err
		}
	}
}

func (in *lineReader) header() (header, error) {
	b, err := in.next()
	if err != nil {
		return header{}, err
	}
	in.sum.Write(b)
	var h header
	if err := json.Unmarshal(b, &h); err != nil || h.Format != snapshotFormat {
		return header{}, fmt.Errorf("%w: not a snapshot of a region's state", starling.ErrCorrupt)
	}
	return h, nil
}

func (h *header) check(region string) error {
	if err := h.readable(); err != nil {
		return err
	}
	if h.Region != region {
		return fmt.Errorf("%w: it is of region %.80q, not of %s", starling.ErrConflict, h.Region, region)
	}
	return nil
}

// records inserts all records and checks the trailer and that nothing follows it.
func (in *lineReader) records(x *txn) error {
	for {
		b, err := in.next()
		if err != nil {
			return err
		}
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return fmt.Errorf("%w: record %d: %v", starling.ErrCorrupt, in.count+1, err)
		}
		if l.Table == "" {
			return in.trailer(b)
		}
		in.sum.Write(b)
		in.count++
		if err := insert(x, &l); err != nil {
			return fmt.Errorf("%w: record %d: %v", starling.ErrCorrupt, in.count, err)
		}
	}
}

func (in *lineReader) trailer(b []byte) error {
	want, err := trailerLine(in.count, in.sum)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, want) {
		return fmt.Errorf("%w: the checksum does not match", starling.ErrCorrupt)
	}
	switch _, err := in.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("%w: bytes after the end", starling.ErrCorrupt)
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func insert(x *txn, l *line) error {
	switch l.Table {
	case tableMeta:
		return insertLine[meta](x, l)
	case tableHomes:
		return insertLine[home](x, l)
	case tableRegions:
		return insertLine[Region](x, l)
	case tableApps:
		return insertLine[starling.App](x, l)
	case tableArtifacts:
		return insertLine[starling.Artifact](x, l)
	case tableBuilds:
		return insertLine[build](x, l)
	case tablePlaced:
		return insertLine[placed](x, l)
	case tableDeployments:
		return insertLine[starling.Deployment](x, l)
	case tableGoals:
		return insertLine[starling.Goal](x, l)
	case tableReleases:
		return insertLine[starling.Release](x, l)
	case tableTokens:
		return insertLine[starling.Token](x, l)
	case tableEvents:
		return insertLine[starling.Event](x, l)
	case tableHistory:
		return insertSegment(x, l)
	case tableTakeovers:
		return insertLine[starling.Takeover](x, l)
	case tableBallots:
		return insertLine[Ballot](x, l)
	case tableUnseen:
		return insertLine[starling.Unseen](x, l)
	case tableMachines:
		return insertLine[starling.Machine](x, l)
	case tableCells:
		return insertLine[starling.Cell](x, l)
	case tableJoinTokens:
		return insertLine[starling.JoinToken](x, l)
	case tableWebhooks:
		return insertLine[starling.Webhook](x, l)
	case tableSinks:
		return insertLine[starling.Sink](x, l)
	}
	return fmt.Errorf("table %.40q is not known", l.Table)
}

// rebuildLanes derives the lanes from the deployments.
func (t *tx) rebuildLanes() {
	last := ""
	for r := range scan[starling.Deployment](t.reader, tableDeployments, byLane, nil) {
		if r.rec.App != last {
			last = r.rec.App
			t.relane(last)
		}
	}
}
