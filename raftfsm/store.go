package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/google/btree"
)

// database holds the records in B-trees, one for each index of each table, that share
// what they have in common with those of the version before (copy on write): a version
// costs nothing to keep, and one entry's writes copy a node once. One transaction may
// write at a time; any number read.
type database struct {
	schema  map[string]*tableSchema
	current atomic.Pointer[[]*tree] // by tableSchema.first; never changed, only replaced
}

// degree is half of what a node of a tree holds at most. Small nodes are copied sooner,
// large ones make for fewer levels.
const degree = 8

// item is a record under its key in one index. In an index that is not unique the key
// ends in that of the record, so that no two are equal.
type item struct {
	key []byte
	row any // *row[T]
}

type tree = btree.BTreeG[item]

// tableSchema says how the records of a table are found.
type tableSchema struct {
	id    func(any) ([]byte, bool)
	names []string // of the indexes: byID, then the others in order
	keys  []func(any) ([]byte, bool)
	first int // place of the first index's tree
}

var errNoIndex = errors.New("there is no such table or index")

// newDB returns an empty database.
func newDB() *database { return newDatabase(schema()) }

func newDatabase(schema map[string]*tableSchema) *database {
	db := &database{schema: schema}
	var trees []*tree
	for _, name := range slices.Sorted(maps.Keys(schema)) {
		s := schema[name]
		s.first = len(trees)
		for range s.names {
			trees = append(trees, btree.NewG(degree, func(a, b item) bool { return bytes.Compare(a.key, b.key) < 0 }))
		}
	}
	db.current.Store(&trees)
	return db
}

// txn is a transaction: it reads the version with which it began and its own writes.
type txn struct {
	db    *database
	trees []*tree
	own   []bool // copied for this transaction; nil: it may not write
	done  bool
	// writes tells those who walk a tree that it has changed under them.
	writes int
}

// read begins a transaction that only reads.
func (db *database) read() *txn { return &txn{db: db, trees: *db.current.Load()} }

// write begins a transaction, to be ended by commit or abort.
func (db *database) write() *txn {
	now := *db.current.Load()
	return &txn{db: db, trees: slices.Clone(now), own: make([]bool, len(now))}
}

// commit makes the writes visible to transactions that begin after it.
func (x *txn) commit() {
	if !x.done {
		x.done = true
		x.db.current.Store(&x.trees)
	}
}

// abort drops the writes, unless they are committed.
func (x *txn) abort() { x.done = true }

// place returns where the tree of an index is.
func (x *txn) place(table, index string) (at int, unique bool, err error) {
	s := x.db.schema[table]
	if s == nil {
		return 0, false, fmt.Errorf("%w: %s", errNoIndex, table)
	}
	for i, name := range s.names {
		if name == index {
			return s.first + i, i == 0, nil
		}
	}
	return 0, false, fmt.Errorf("%w: %s of %s", errNoIndex, index, table)
}

// mine returns a tree that this transaction may change.
func (x *txn) mine(at int) *tree {
	if !x.own[at] {
		x.trees[at] = x.trees[at].Clone()
		x.own[at] = true
	}
	return x.trees[at]
}

// insert stores a row in place of the one with its ID.
func (x *txn) insert(table string, row any) error {
	s := x.db.schema[table]
	if s == nil {
		return fmt.Errorf("%w: %s", errNoIndex, table)
	}
	id, ok := s.id(row)
	if !ok {
		return fmt.Errorf("a %T cannot be in table %s", row, table)
	}
	x.writes++
	old, _ := x.mine(s.first).ReplaceOrInsert(item{id, row})
	for i := 1; i < len(s.keys); i++ {
		k, have := s.key(i, row, id)
		if old.row != nil {
			if before, had := s.key(i, old.row, id); had && !(have && bytes.Equal(before, k)) {
				x.mine(s.first + i).Delete(item{key: before})
			}
		}
		if have {
			x.mine(s.first + i).ReplaceOrInsert(item{k, row})
		}
	}
	return nil
}

// delete removes the row with the ID of row.
func (x *txn) delete(table string, row any) error {
	s := x.db.schema[table]
	if s == nil {
		return fmt.Errorf("%w: %s", errNoIndex, table)
	}
	id, ok := s.id(row)
	if !ok {
		return fmt.Errorf("a %T cannot be in table %s", row, table)
	}
	x.writes++
	old, had := x.mine(s.first).Delete(item{key: id})
	if !had {
		return fmt.Errorf("table %s has no record %q", table, id)
	}
	for i := 1; i < len(s.keys); i++ {
		if k, have := s.key(i, old.row, id); have {
			x.mine(s.first + i).Delete(item{key: k})
		}
	}
	return nil
}

// key returns the key of a row in the i-th index.
func (s *tableSchema) key(i int, row any, id []byte) ([]byte, bool) {
	k, ok := s.keys[i](row)
	if !ok {
		return nil, false
	}
	return append(k, id...), true
}

// first returns the first row whose key begins with k; of a unique index the one whose
// key is k.
func (x *txn) first(table, index string, k []byte) any {
	at, unique, err := x.place(table, index)
	if err != nil {
		return nil // which the tests would show
	}
	if unique && k != nil {
		it, _ := x.trees[at].Get(item{key: k})
		return it.row
	}
	for row := range x.walk(at, k, k, false) {
		return row
	}
	return nil
}

// scan yields the rows whose key begins with prefix, in order of key.
func (x *txn) scan(table, index string, prefix []byte) iter.Seq[any] {
	return x.over(table, index, prefix, prefix, false)
}

// scanBack is scan in reverse order.
func (x *txn) scanBack(table, index string, prefix []byte) iter.Seq[any] {
	return x.over(table, index, beyond(prefix), prefix, true)
}

// scanFrom yields the rows whose key is from or above, in order of key.
func (x *txn) scanFrom(table, index string, from []byte) iter.Seq[any] {
	return x.over(table, index, from, nil, false)
}

// scanBackFrom yields the rows whose key is from or below, in reverse order.
func (x *txn) scanBackFrom(table, index string, from []byte) iter.Seq[any] {
	return x.over(table, index, from, nil, true)
}

func (x *txn) over(table, index string, from, prefix []byte, back bool) iter.Seq[any] {
	at, _, err := x.place(table, index)
	if err != nil {
		return func(func(any) bool) {} // which the tests would show
	}
	return x.walk(at, from, prefix, back)
}

// beyond returns a key that no key with the prefix comes after; nil: none does.
func beyond(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			k := slices.Clone(prefix[:i+1])
			k[i]++
			return k
		}
	}
	return nil
}

// walk yields the rows of a tree from a key on, nil for the beginning, as long as their
// keys have the prefix. What is written meanwhile is seen where the walk has yet to come.
func (x *txn) walk(at int, from, prefix []byte, back bool) iter.Seq[any] {
	return func(yield func(any) bool) {
		var last []byte // where to go on when the tree has changed
		for again := true; again; {
			again = false
			writes := x.writes
			visit := func(it item) bool {
				switch {
				case last != nil && bytes.Equal(it.key, last):
					return true // seen before the change
				case !bytes.HasPrefix(it.key, prefix):
					return back && last == nil && bytes.Equal(it.key, from) // the end that scanBack begins at
				}
				last = it.key
				if !yield(it.row) {
					return false
				}
				again = x.writes != writes
				return !again
			}
			begin := from
			if last != nil {
				begin = last
			}
			switch t := x.trees[at]; {
			case begin == nil && back:
				t.Descend(visit)
			case back:
				t.DescendLessOrEqual(item{key: begin}, visit)
			default:
				t.AscendGreaterOrEqual(item{key: begin}, visit)
			}
		}
	}
}
