// Package journal keeps what was taken in until every sink has settled it:
// the log of records, the state of each key, each sink's cursor, dead letters,
// receipts, and the certificates of sweeps.
//
// What Append and Settle have returned nil for survives a crash and a loss of
// power. The package promises nothing about delivery; it stores what the
// poller and the delivery workers decide.
package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// Errors that callers tell apart.
var (
	// ErrFull means that nothing was stored because the journal is at a limit
	// of its size or of the free disk, or the disk is full. It becomes possible
	// again when sinks settle or space appears. FullError says who holds it up.
	ErrFull = errors.New("journal is full")
	// ErrConflict means that a key's stored sequence is not the expected one;
	// nothing was stored, the caller must load its states again.
	ErrConflict = errors.New("a key changed behind our back")
	// ErrLeaseLost means that somebody else works for this source or sink.
	ErrLeaseLost = errors.New("lease lost")
	// ErrReplay means that a replay cannot begin: another one of the sink runs,
	// or the journal no longer has what it asks for. ReplayError says which.
	ErrReplay = errors.New("replay is not possible")
	// ErrConfigured means that what is kept of a sink cannot be removed while
	// the sink is configured.
	ErrConfigured = errors.New("sink is configured")
	// ErrLocked means that another process has the journal open.
	ErrLocked = errors.New("state directory is in use by another process")
	// ErrDead means that the file could not be saved after an error of the disk;
	// nothing can be stored any more. The program must end and be looked after.
	ErrDead = errors.New("journal cannot be used any more")
	// ErrClosed means that the journal was closed.
	ErrClosed = errors.New("journal is closed")
)

// A FullError is an ErrFull that names what is at its limit and the sink whose
// cursor holds the space.
type FullError struct {
	Limit string // "state.max_bytes", "state.min_free_disk" or LimitDisk
	Sink  string // the sink whose cursor is last; empty when none is configured
}

// limitFree is the limit of the free space.
const limitFree = "state.min_free_disk"

// LimitDisk is the limit that the disk itself sets.
const LimitDisk = "disk"

// Error names the limit, the sink and the remedy.
func (e *FullError) Error() string {
	s := "journal is full: " + e.Limit + " reached"
	switch {
	case e.Limit == LimitDisk:
		s = "the disk of the state directory is full: free space on it"
	case e.Sink == "" && e.Limit == limitFree:
		s += ": free space on the disk of the state directory; no sink holds any"
	case e.Sink == "":
		s += ": raise it; no sink holds anything"
	}
	if e.Sink != "" {
		s += "; sink " + e.Sink + " holds the oldest records: mend it, or set its on_full to skip"
	}
	return s
}

// Is makes errors.Is(err, ErrFull) true.
func (e *FullError) Is(target error) bool { return target == ErrFull }

// A ReplayError is an ErrReplay that says why.
type ReplayError struct {
	Running bool   // another replay of the sink runs
	Oldest  uint64 // oldest record kept, where the replay asks for older ones
}

// Error says why, and what is possible.
func (e *ReplayError) Error() string {
	if e.Running {
		return "a replay of this sink runs already: wait for its end, or end it"
	}
	return fmt.Sprintf("the journal no longer has what the replay asks for: its oldest record is number %d", e.Oldest)
}

// Is makes errors.Is(err, ErrReplay) true.
func (e *ReplayError) Is(target error) bool { return target == ErrReplay }

// A Lease is the right to write for one source or one sink.
type Lease interface {
	// Owner is what the lease is for: "source/prod/risk_process", "sink/soc".
	Owner() string
	// Release gives the lease back: nothing can be written under it any more.
	Release() error
}

// Journal is what poller, delivery and console see. It is safe for concurrent
// use. Whatever engine is behind it promises:
//
//   - Read never returns a record while one with a smaller sequence may still
//     appear.
//   - Append names for each key the sequence that it expects and fails whole,
//     with ErrConflict, when one differs.
//   - Every write is made under a Lease and fails whole with ErrLeaseLost when
//     somebody else holds it.
//   - Sequences grow and may have holes.
//   - No callback runs inside a transaction.
//
// An error that is none of the sentinels means that the outcome is unknown;
// the journal has then already reopened itself, and the caller must load again
// what it believed, and repeat.
type Journal interface {
	// Lease takes the lease of an owner, also from a former holder in this
	// process, which must not hold up the next one: what that writes from now on
	// fails.
	Lease(ctx context.Context, owner string) (Lease, error)

	// States returns the keys of one account and kind in order of their ids, at
	// most limit, starting behind the id given ("" for the first). It is how a
	// source fills its dedupe set.
	States(ctx context.Context, account, kind, afterID string, limit int) ([]KeyState, error)
	// Source returns what was stored of a source and kind; a zero value when
	// nothing was.
	Source(ctx context.Context, source, kind string) (Source, error)
	// Append stores all of the batch or nothing, and returns the sequence of
	// its last record (0 when it holds none). Records get their Seq, and
	// states with a record their LastRecord, before it returns nil. It may
	// wait a tenth of a second for a reader that is close behind.
	Append(ctx context.Context, lease Lease, batch Batch) (last uint64, err error)
	// Certificates returns the newest certificates of a source and kind,
	// newest first.
	Certificates(ctx context.Context, source, kind string, limit int) ([]Certificate, error)

	// Read returns up to limit records with a sequence greater than after, in
	// order. maxBytes bounds the sum of their Raw (0: no bound); the first
	// record is returned whatever its size. A record whose checksum is wrong
	// is left out, counted in Status and reported through the damage log.
	Read(ctx context.Context, after uint64, limit, maxBytes int) ([]*event.Record, error)
	// Get returns the record with exactly this sequence; nil when it is gone.
	Get(ctx context.Context, seq uint64) (*event.Record, error)
	// Changed returns a channel that is closed once there is a record with a
	// sequence greater than after; at once if there is one.
	Changed(after uint64) <-chan struct{}
	// Cursor returns a sink's cursor.
	Cursor(ctx context.Context, sink string) (Cursor, error)
	// Replay returns the replay of a sink that runs, nil when none does.
	Replay(ctx context.Context, sink string) (*Replay, error)
	// Memos returns what a sink remembered for these keys.
	Memos(ctx context.Context, sink string, keys []event.Key) (map[event.Key]string, error)
	// Settle stores all of the settlement or nothing.
	Settle(ctx context.Context, lease Lease, s Settlement) error
	// DeadLetters returns up to limit dead letters of a sink with a sequence
	// greater than after, in order.
	DeadLetters(ctx context.Context, sink string, after uint64, limit int) ([]DeadLetter, error)

	// Receipts returns what a sink's destination said of the batches that a
	// record was in, the oldest first; none when the sink never tried, and
	// when the record was trimmed.
	Receipts(ctx context.Context, sink string, seq uint64) ([]Receipt, error)

	// Forget removes all that is kept of a sink that is not configured: its
	// cursor, dead letters, receipts, memos and gaps. It returns how many dead
	// letters went, and ErrConfigured when the sink is configured.
	Forget(ctx context.Context, lease Lease, sink string) (dead int, err error)

	// Status returns figures for people: sizes, cursors, gaps, damage.
	Status(ctx context.Context) (Status, error)
}

// A KeyState is a key with its state.
type KeyState struct {
	Key   event.Key
	State event.State
}

// A Batch is what one Append stores.
type Batch struct {
	Changes     []Change
	Source      *Source      // replaces what is stored of the source, when not nil
	Certificate *Certificate // added to the source's certificates, when not nil
}

// A Change is the new state of one key and, usually, the record that tells it.
// A key stands at most once in a batch.
type Change struct {
	Key    event.Key
	Expect uint64        // sequence that the key's state has now; 0: the key is not known
	State  event.State   // what becomes its state; ignored with Forget
	Record *event.Record // what is appended to the log; nil: only the state changes
	Forget bool          // the key and the sinks' memos of it are removed
}

// A Source is what is kept of one source and kind beside the states.
type Source struct {
	Source, Kind string
	Account      string    // the identity of its keys; empty until it is known
	Filters      string    // canonical text of the filters that the states were seen under
	ChangedOn    []string  // the tracked fields, in the order of State.Tracked
	Boundaries   []string  // wall times at which the last sweep can be split into parts of like size
	Exclusive    bool      // BeginTime was found to be an exclusive bound
	Requests     int       // of the last certified sweep: the estimate for the next
	FirstCertAt  time.Time // end of the first certified sweep since the state began; zero: none yet
	LastCertAt   time.Time // end of the last certified sweep
}

// A Certificate says how a sweep went and what it proves.
type Certificate struct {
	Source, Kind string
	Sweep        string // id of the sweep; its records bear it
	Started      time.Time
	Ended        time.Time
	Requests     int
	Parts        int
	IDs          int   // distinct ids read
	TotalBefore  int64 // TotalCount before the first page; -1: none
	TotalAfter   int64 // TotalCount after the last page; -1: none
	Records      int   // records written by it
	Collected    int   // seconds that had to be collected
	Method       string
	Certified    bool
	Reason       string // why it is not certified: "withheld", "unreachable", "no-count", "busy", …
	Detail       string // one line for a person
	First        bool   // the first certified sweep of the source's state
}

// A Range is an inclusive range of sequences.
type Range struct{ First, Last uint64 }

// A Cursor is how far a sink has come.
type Cursor struct {
	Seq   uint64  // every record up to here is settled
	Ahead []Range // settled behind it while something before them is not; ascending, disjoint
	// Begin is where the sink began: it was never to get records up to here.
	// The journal sets it; Settle keeps the stored one whatever it is given.
	Begin uint64
}

// A Settlement is what became of records, as one sink's worker stores it.
type Settlement struct {
	Sink    string
	Cursor  Cursor       // replaces the stored one; Seq never goes back
	Dead    []DeadLetter // one of a record that is a dead letter already replaces that
	Revived []uint64     // records whose dead letters are removed
	// Filled are records that the sink did not get, because of a Gap or because
	// it began later, and that are accounted for from now on: by Dead, or by a
	// later record of their key. They leave the sink's gaps, and Cursor.Begin
	// goes back to the newest record before it that is not among them.
	Filled   []Range
	Receipts []Receipt
	Memos    map[event.Key]string // "" removes
	// Replay begins, moves on or ends the sink's replay; nil: it stays as it
	// is. One with another Begun than the stored one begins: that fails with
	// ErrReplay when there is a stored one, or when records behind After are
	// gone. After never goes back.
	Replay *Replay
}

// A Replay is a second cursor of a sink: it sends again what the journal still
// has. What it has not passed is kept beyond the retention, though not beyond
// the limits of space: what goes then is a Gap.
type Replay struct {
	After uint64    // every record up to here was sent again, or was not to be
	From  uint64    // the first record that was asked for
	Begun time.Time // names the replay
	Ended bool      // in a Settlement: nothing is left of it
}

// A DeadLetter is a record that a sink will not get.
type DeadLetter struct {
	Record   *event.Record
	Reason   string    // the destination's words, cleaned, without secrets
	Class    string    // "poison", "stuck", "encode"
	Attempts int       // attempts made with it
	At       time.Time // when it was buried
}

// A Receipt is what a destination said to the batch of a range of records.
type Receipt struct {
	Range    Range
	At       time.Time
	Attempts int
	Records  int // of the range that were sent; the others were refused by when:
	Failed   bool
	Answer   string
	Again    bool // sent again: by a replay, or out of the dead letters; the first receipt stays beside it
}

// A Gap is a range of records that a sink did not get and will not get by
// itself: skipped at a full journal, trimmed while the sink was not
// configured, or damaged.
type Gap struct {
	Sink    string
	Range   Range
	Records int
	Reason  string // "skip", "trimmed", "damage", "replay"
	At      time.Time
}

// A Status is a set of figures for people and metrics.
type Status struct {
	First, Last uint64 // oldest and newest sequence kept; 0 when the log is empty
	Records     int    // records in the log
	Keys        int    // known keys
	Bytes       int64  // of all rows of log, states and dead letters
	FileBytes   int64  // size of the file
	FreeBytes   int64  // of it unused
	MaxBytes    int64
	Full        *FullError // why appends are refused now; nil when they are not
	Sinks       []SinkStatus
	Gaps        []Gap
	Damaged     int      // records that could not be read back, since the file was created
	SetAside    []string // damaged files kept beside the journal
}

// A SinkStatus is a sink as the journal knows it.
type SinkStatus struct {
	Sink       string
	Configured bool
	Cursor     Cursor
	Behind     int       // records not yet settled
	Oldest     time.Time // ObservedAt of the oldest of them; zero when none
	Dead       int
	Last       Receipt // the newest receipt
	Replay     *Replay // nil when none runs
}
