package raftfsm

import (
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
)

// reader reads one state: of a View, or of the entry being applied.
type reader struct {
	txn    *txn
	region string
}

// get returns the first row with a key in an index, nil if there is none.
func get[T any](r reader, table, index string, k []byte) *row[T] {
	o, _ := r.txn.first(table, index, k).(*row[T])
	return o
}

// scan yields the rows whose key begins with prefix, in order of key.
func scan[T any](r reader, table, index string, prefix []byte) iter.Seq[*row[T]] {
	return rows[T](r.txn.scan(table, index, prefix))
}

// scanBack is scan in reverse order.
func scanBack[T any](r reader, table, index string, prefix []byte) iter.Seq[*row[T]] {
	return rows[T](r.txn.scanBack(table, index, prefix))
}

// scanFrom yields all rows whose key is from or above, in order of key.
func scanFrom[T any](r reader, table, index string, from []byte) iter.Seq[*row[T]] {
	return rows[T](r.txn.scanFrom(table, index, from))
}

func rows[T any](all iter.Seq[any]) iter.Seq[*row[T]] {
	return func(yield func(*row[T]) bool) {
		for o := range all {
			if !yield(o.(*row[T])) {
				return
			}
		}
	}
}

// records returns what a scan yields.
func records[T any](seq iter.Seq[*row[T]]) []*T {
	var out []*T
	for r := range seq {
		out = append(out, r.rec)
	}
	return out
}

// tx is the transaction of one log entry. Its commands commit together; one that is
// refused is undone by itself.
type tx struct {
	reader
	limits limits
	meta   meta
	index  uint64 // of the entry
	n      int    // events so far

	// Of the command being applied.
	at    time.Time // as the proposer read its clock
	now   time.Time // the state's clock: never goes backwards
	actor string
	undo  []change
	err   error // of the database: a fault in the schema

	leased   map[string]bool // deployments leased in this entry
	enrolled enrolments      // in this entry
}

// change is what undoing one write takes.
type change struct {
	table       string
	before, now any // nil: there was, is, none
}

func begin(db *database, region string, lim limits, index uint64) *tx {
	t := &tx{reader: reader{txn: db.write(), region: region}, limits: lim, index: index}
	if m := get[meta](t.reader, tableMeta, byID, strKey(tableMeta)); m != nil {
		t.meta = *m.rec
	}
	return t
}

// commit makes the entry's changes visible, all at once.
func (t *tx) commit() error {
	t.meta.Index = t.index
	t.undo, t.err = nil, nil
	m := t.meta
	put(t, tableMeta, nil, &row[meta]{rec: &m})
	if t.err != nil {
		t.txn.abort()
		return t.err
	}
	t.txn.commit()
	return nil
}

// apply runs one command. A refused command changes nothing but the clock
// and the level in use.
func (t *tx) apply(c *Command) Result {
	res, err := t.run(c)
	if err == nil && t.err != nil {
		err = fmt.Errorf("%s: %w", c.Type, t.err)
	}
	if err != nil {
		return Result{Index: t.index, Err: err}
	}
	res.Index = t.index
	return res
}

func (t *tx) run(c *Command) (res Result, err error) {
	h := handlerOf(c.Type)
	if h == nil {
		return res, starling.Invalidf("type", "command %.80q is not known to this program", c.Type)
	}
	if len(c.Actor) > MaxActorBytes || strings.ContainsRune(c.Actor, 0) {
		return res, starling.Invalidf("actor", "want at most %d bytes without NUL", MaxActorBytes)
	}
	if c.At.IsZero() || c.At.Year() > maxYear {
		return res, starling.Invalidf("at", "%s is no usable time", c.At)
	}
	t.at = c.At.UTC()
	if t.at.After(t.meta.Clock) {
		t.meta.Clock = t.at
	}
	if n := c.Needs(); n > max(1, t.meta.Level) {
		t.meta.Level = n // whatever becomes of c, it stands in the log
	}
	t.now, t.actor = t.meta.Clock, c.Actor
	t.undo, t.err = t.undo[:0], nil
	saved, n := t.meta, t.n
	res, err = h(t, c)
	if err != nil || t.err != nil {
		t.rollback()
		t.meta, t.n = saved, n
	}
	return res, err
}

// rollback undoes the writes of the current command.
func (t *tx) rollback() {
	for i := len(t.undo) - 1; i >= 0; i-- {
		c := t.undo[i]
		var err error
		if c.before != nil {
			err = t.txn.insert(c.table, c.before)
		} else {
			err = t.txn.delete(c.table, c.now)
		}
		if err != nil && t.err == nil {
			t.err = fmt.Errorf("undo in %s: %w", c.table, err)
		}
	}
	t.undo = t.undo[:0]
}

// put stores now in place of before, which is nil for a new record.
func put[T any](t *tx, table string, before, now *row[T]) {
	if err := t.txn.insert(table, now); err != nil {
		t.fault("put", table, err)
		return
	}
	c := change{table: table, now: now}
	if before != nil {
		c.before = before
	}
	t.undo = append(t.undo, c)
}

// drop deletes a stored row.
func drop[T any](t *tx, table string, r *row[T]) {
	if err := t.txn.delete(table, r); err != nil {
		t.fault("delete", table, err)
		return
	}
	t.undo = append(t.undo, change{table: table, before: r})
}

func (t *tx) fault(verb, table string, err error) {
	if t.err == nil {
		t.err = fmt.Errorf("%s in %s: %w", verb, table, err)
	}
}

// home returns a copy of a home's counters, and the row to put it in place of.
func (t *tx) home(name string) (home, *row[home]) {
	if r := get[home](t.reader, tableHomes, byID, strKey(name)); r != nil {
		return *r.rec, r
	}
	return home{Name: name}, nil
}

// count changes the counters of a home.
func (t *tx) count(name string, f func(*home)) {
	h, before := t.home(name)
	f(&h)
	put(t, tableHomes, before, &row[home]{rec: &h})
}

// modOf returns the mod of a record changed now: none for copies.
func (t *tx) modOf(home string) uint64 {
	if home == t.region {
		return t.index
	}
	return 0
}

func (t *tx) nextSeq() uint64 {
	t.meta.Seq++
	return t.meta.Seq
}

// clip shortens s to at most n bytes without cutting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
