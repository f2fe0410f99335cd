package emulator

import (
	"cmp"
	"slices"
	"sort"
)

// The two times that a list can be sorted by.
const (
	byStart = iota
	byDetect
)

// An index holds the visible rows in ascending order of one of their times.
// Inside one second the order is that of insertion, so that a row is found by
// bisection however many share its second.
type index struct {
	by   int
	rows []*row
}

func (x *index) compare(a, b *row) int {
	return cmp.Or(cmp.Compare(a.keys[x.by], b.keys[x.by]), cmp.Compare(a.serial, b.serial))
}

// few is up to how many rows are put into or taken out of the index one by
// one; each moves half of the index on average. More are done in one pass.
const few = 8

func (x *index) insert(rows ...*row) {
	if len(rows) <= few {
		for _, r := range rows {
			at, _ := slices.BinarySearchFunc(x.rows, r, x.compare)
			x.rows = slices.Insert(x.rows, at, r)
		}
		return
	}
	added := slices.SortedFunc(slices.Values(rows), x.compare)
	merged := make([]*row, 0, len(x.rows)+len(added))
	old := x.rows
	for len(old) > 0 && len(added) > 0 {
		if x.compare(old[0], added[0]) < 0 {
			merged, old = append(merged, old[0]), old[1:]
		} else {
			merged, added = append(merged, added[0]), added[1:]
		}
	}
	x.rows = append(append(merged, old...), added...)
}

func (x *index) remove(rows ...*row) {
	if len(rows) <= few {
		for _, r := range rows {
			if at, ok := slices.BinarySearchFunc(x.rows, r, x.compare); ok {
				x.rows = slices.Delete(x.rows, at, at+1)
			}
		}
		return
	}
	gone := make(map[*row]bool, len(rows))
	for _, r := range rows {
		gone[r] = true
	}
	x.rows = slices.DeleteFunc(x.rows, func(r *row) bool { return gone[r] })
}

// firstAtOrAfter is the position of the first of rows, sorted by one of their
// times, whose time is not before key.
func firstAtOrAfter(rows []*row, by int, key int64) int {
	return sort.Search(len(rows), func(i int) bool { return rows[i].keys[by] >= key })
}
