package raftfsm

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// number is a record for these tests: found by id, and by group unless that is empty.
type number struct {
	id, group string
	n         int
}

func numbersDB() *database {
	s := map[string]*tableSchema{}
	table(s, "numbers", func(r *row[number]) []byte { return strKey(r.rec.id) }, map[string]index[number]{
		"group": func(r *row[number]) []byte { return optional(r.rec.group != "", newKey().str(r.rec.group)) },
	})
	table(s, "others", func(r *row[number]) []byte { return strKey(r.rec.id) }, nil)
	return newDatabase(s)
}

func numbers(rows iter.Seq[any]) (out []number) {
	for o := range rows {
		out = append(out, *o.(*row[number]).rec)
	}
	return out
}

// The store against a map, with versions that are looked at again long after they were current.
func TestStoreAgainstAModel(t *testing.T) {
	type version struct {
		read *txn
		all  map[string]number
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	db, model := numbersDB(), map[string]number{}
	var old []version
	for round := range 300 {
		x, next := db.write(), maps.Clone(model)
		for range rnd.IntN(20) {
			n := number{fmt.Sprintf("id%d", rnd.IntN(200)), []string{"", "a", "ab", "b"}[rnd.IntN(4)], rnd.IntN(1000)}
			_, had := next[n.id]
			if rnd.IntN(3) > 0 {
				next[n.id] = n
				if err := x.insert("numbers", &row[number]{rec: &n}); err != nil {
					t.Fatal(err)
				}
			} else if err := x.delete("numbers", &row[number]{rec: &n}); (err == nil) != had {
				t.Fatalf("round %d: deleting %s: %v", round, n.id, err)
			} else {
				delete(next, n.id)
			}
		}
		compareNumbers(t, x, next)
		if rnd.IntN(5) == 0 {
			x.abort()
		} else {
			x.commit()
			model = next
		}
		compareNumbers(t, db.read(), model)
		old = append(old, version{db.read(), maps.Clone(model)})
		v := old[rnd.IntN(len(old))]
		compareNumbers(t, v.read, v.all)
	}
}

func compareNumbers(t *testing.T, x *txn, want map[string]number) {
	t.Helper()
	sorted := slices.SortedFunc(maps.Values(want), func(a, b number) int { return strings.Compare(a.id, b.id) })
	check := func(what string, got, want []number) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: got %v, want %v", what, got, want)
		}
	}
	backwards := func(s []number) []number { s = slices.Clone(s); slices.Reverse(s); return s }
	where := func(f func(number) bool) []number {
		return slices.DeleteFunc(slices.Clone(sorted), func(n number) bool { return !f(n) })
	}
	check("all", numbers(x.scan("numbers", byID, nil)), sorted)
	check("all, back", numbers(x.scanBack("numbers", byID, nil)), backwards(sorted))
	check("from id5", numbers(x.scanFrom("numbers", byID, []byte("id5"))), where(func(n number) bool { return n.id >= "id5" }))
	check("back from id5", numbers(x.scanBackFrom("numbers", byID, []byte("id5"))), backwards(where(func(n number) bool { return n.id < "id5" })))
	check("id1…", numbers(x.scan("numbers", byID, []byte("id1"))), where(func(n number) bool { return strings.HasPrefix(n.id, "id1") }))
	check("id1…, back", numbers(x.scanBack("numbers", byID, []byte("id1"))), backwards(where(func(n number) bool { return strings.HasPrefix(n.id, "id1") })))
	inA := where(func(n number) bool { return n.group == "a" })
	check("group a", numbers(x.scan("numbers", "group", strKey("a"))), inA)
	check("group a, back", numbers(x.scanBack("numbers", "group", strKey("a"))), backwards(inA))
	grouped := where(func(n number) bool { return n.group != "" })
	slices.SortStableFunc(grouped, func(a, b number) int { return cmp.Compare(a.group+"\x00", b.group+"\x00") })
	check("groups", numbers(x.scan("numbers", "group", nil)), grouped)
	if o := x.first("numbers", "group", strKey("a")); (o != nil) != (len(inA) > 0) || o != nil && *o.(*row[number]).rec != inA[0] {
		t.Fatalf("the first of group a: %v, want of %v", o, inA)
	}
	if o := x.first("numbers", byID, []byte("id")); o != nil {
		t.Fatalf("half an ID found %v", o)
	}
	check("another table", numbers(x.scan("others", byID, nil)), nil)
}

// What is walked over may be changed meanwhile, as a command does with what it finds.
func TestStoreWalkDuringWrites(t *testing.T) {
	db := numbersDB()
	x := db.write()
	for i := range 100 {
		if err := x.insert("numbers", &row[number]{rec: &number{fmt.Sprintf("id%02d", i), "a", i}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, back := range []bool{false, true} {
		walk := x.scan("numbers", "group", strKey("a"))
		if back {
			walk = x.scanBack("numbers", "group", strKey("a"))
		}
		var seen []int
		for o := range walk {
			n := *o.(*row[number]).rec
			seen = append(seen, n.n)
			n.group = []string{"b", "a"}[n.n%2] // every other leaves the index that is walked
			if err := x.insert("numbers", &row[number]{rec: &n}); err != nil {
				t.Fatal(err)
			}
		}
		if want := map[bool]int{false: 100, true: 50}[back]; len(seen) != want || slices.IsSorted(seen) == back {
			t.Errorf("back %t: %d of %d rows: %v", back, len(seen), want, seen)
		}
	}
	if len(numbers(db.read().scan("numbers", byID, nil))) != 0 {
		t.Error("what is not committed is seen")
	}
}

func TestStoreKnowsItsTables(t *testing.T) {
	x := numbersDB().write()
	n := &row[number]{rec: &number{id: "x"}}
	for what, err := range map[string]error{
		"insert": x.insert("none", n), "delete": x.delete("none", n),
		"a stranger": x.insert("numbers", &row[home]{rec: &home{}}), "deleting a stranger": x.delete("numbers", &row[home]{rec: &home{}}),
		"deleting what is not there": x.delete("numbers", n),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if x.first("none", byID, nil) != nil || x.first("numbers", "none", nil) != nil || len(numbers(x.scan("none", byID, nil))) > 0 {
		t.Error("found something where there is nothing")
	}
}
