package journal

import (
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// receipts are what is kept of the batches that begin at one record: the last
// one, and, where it or they were sent again, those before it.
type receipts struct {
	Receipt
	Earlier []Receipt `json:",omitempty"` // the oldest first
}

// The most receipts before the last one. The first of all is always kept.
const maxEarlier = 7

// all returns the receipts, the oldest first.
func (r receipts) all() []Receipt { return append(slices.Clone(r.Earlier), r.Receipt) }

// last is the newest record that any of the batches held.
func (r receipts) last() uint64 {
	last := uint64(0)
	for _, one := range r.all() {
		last = max(last, one.Range.Last)
	}
	return last
}

// putReceipts stores what a destination said. A batch that is tried until it
// succeeds has one receipt; what is sent again has one of its own.
func putReceipts(tx *bolt.Tx, sink string, list []Receipt) error {
	b := tx.Bucket([]byte("receipt"))
	for _, r := range list {
		key := sinkSeqKey(sink, r.Range.First)
		next := receipts{Receipt: r}
		var before receipts
		if row := b.Get(key); row != nil && decodeJSON(rowReceipt, key, row, &before) == nil { // a damaged one is replaced
			next.Earlier = before.Earlier
			if r.Again || before.Again {
				next.Earlier = before.all()
			}
			if len(next.Earlier) > maxEarlier {
				next.Earlier = slices.Delete(next.Earlier, 1, 2)
			}
		}
		if err := putJSON(b, rowReceipt, key, next); err != nil {
			return fmt.Errorf("store a receipt of sink %s: %w", sink, err)
		}
	}
	return nil
}
