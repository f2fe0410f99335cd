package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The names in the state directory.
const (
	fileName    = "journal.db"
	reserveName = "journal.reserve" // given up when a settlement finds the disk full
)

const reserveBytes = 4 << 20

// buckets are all there are; cursors, dead letters, receipts and memos begin
// their keys with the sink's name.
func buckets() []string {
	return []string{"meta", "state", "log", "cursor", "dead", "receipt", "memo", "source", "sweep", "gap", "replay"}
}

// Options are what Open needs beside the configuration.
type Options struct {
	Sinks      []SinkRule
	Registerer prometheus.Registerer // nil: no metrics
	// Report tells a person what they must know: damage, space, cursors
	// nobody uses. It is called by the goroutine that found it. Nil: nobody.
	Report func(message string)
	// OpenFile opens the database file, for tests that make the disk fail.
	OpenFile func(name string, flag int, perm fs.FileMode) (*os.File, error)
}

// A File is a Journal in one bbolt file of a directory that one process uses.
type File struct {
	cfg    Config // of it, what Reconfigure does not change
	opt    Options
	path   string
	ops    chan *op
	closed chan struct{} // closed by Close: nothing new is taken
	gone   chan struct{} // closed when the writer has ended
	once   sync.Once
	dead   chan struct{} // closed when the journal is dead
	fsyncs prometheus.Histogram

	dbMu sync.RWMutex // guards db, which a rescue replaces
	db   *bolt.DB

	recent recent
	pace   pace
	codecs chan *rowCodec // to use again

	mu      sync.Mutex // guards the rest
	last    uint64     // sequence of the newest record
	changed chan struct{}
	full    *FullError
	deadErr error
	aside   []string
	leases  map[string]*fileLease // the present one of each owner
	limits  Config                // MaxBytes, MinFreeDisk and Retention that are in force
	rules   []SinkRule            // of the configured sinks

	committing sync.Mutex // held while a commit runs

	// Of the writer alone.
	meta     meta
	marks    *os.File // nil: there is none
	diskAt   time.Time
	diskFree int64
}

// meta is the row of figures that are kept beside the data.
type meta struct {
	Bytes   int64 `json:"bytes"` // of all rows of log, state and dead, keys included
	Keys    int   `json:"keys"`
	Dead    int   `json:"dead"` // dead letters
	Damaged int   `json:"damaged"`
}

// Open opens the journal of a directory, or makes one. A damaged file is set
// aside, what can be read of it is carried over, and the rest is reported. It
// returns an ErrLocked when another process uses the directory.
func Open(cfg Config, opt Options) (*File, error) {
	f := &File{
		cfg: cfg, opt: opt, path: filepath.Join(cfg.Dir, fileName),
		ops: make(chan *op), closed: make(chan struct{}), gone: make(chan struct{}), dead: make(chan struct{}),
		changed: make(chan struct{}), leases: map[string]*fileLease{}, limits: cfg, rules: opt.Sinks,
		codecs: make(chan *rowCodec, 2),
	}
	if err := makeDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	if _, err := os.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
		if err := f.create(); err != nil {
			return nil, fmt.Errorf("create the journal in %s: %w", cfg.Dir, err)
		}
	}
	if err := f.openSound(); err != nil {
		return nil, err
	}
	if err := f.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the journal in %s: %w", cfg.Dir, err), f.db.Close(), f.closeMarks())
	}
	f.register()
	go f.write()
	return f, nil
}

func (f *File) report(format string, args ...any) {
	if f.opt.Report != nil {
		f.opt.Report(fmt.Sprintf(format, args...))
	}
}

func (f *File) boltOptions() *bolt.Options {
	o := *bolt.DefaultOptions
	o.Timeout = time.Second
	o.NoFreelistSync = true // synced, draining a backlog writes 28 times as much
	o.FreelistType = bolt.FreelistMapType
	o.OpenFile = f.opt.OpenFile
	return &o
}

// create makes an empty journal under another name first: a torn first write
// is the one state that the engine does not recover from.
func (f *File) create() error {
	tmp, err := f.createTemporary()
	if err != nil {
		return err
	}
	return f.moveInto(tmp)
}

// createTemporary makes an empty journal that nobody finds by its name.
func (f *File) createTemporary() (tmp string, err error) {
	tmp = f.path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	db, err := bolt.Open(tmp, 0o600, f.boltOptions())
	if err != nil {
		return "", err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	return tmp, errors.Join(err, db.Sync(), db.Close())
}

func (f *File) moveInto(tmp string) error {
	if err := os.Rename(tmp, f.path); err != nil {
		return err
	}
	return syncDir(f.cfg.Dir)
}

// openSound opens the file if its structure is sound, else what could be
// salvaged of it.
func (f *File) openSound() error {
	db, damage := f.openChecked()
	switch {
	case damage == nil:
		f.db = db
		return nil
	case errors.Is(damage, ErrLocked), errors.Is(damage, fs.ErrPermission):
		return damage
	}
	if system, ok := errors.AsType[syscall.Errno](damage); ok && system != syscall.EIO {
		// The system refuses, which says nothing of the file. Only what cannot
		// be read from the disk is as good as damaged.
		return fmt.Errorf("open the journal in %s: %w", f.cfg.Dir, damage)
	}
	aside := fmt.Sprintf("%s.damaged-%s", f.path, time.Now().UTC().Format("20060102T150405.000"))
	if err := f.salvage(aside, damage); err != nil {
		return fmt.Errorf("the journal is damaged (%w) and could not be carried over to a new file: %w", damage, err)
	}
	db, err := f.openChecked()
	if err != nil {
		return fmt.Errorf("open the salvaged journal: %w", err)
	}
	f.db, f.aside = db, []string{aside}
	return nil
}

// openChecked locks the file, looks at its structure, and only then lets the
// engine read it: on a damaged tree it panics in a goroutine of its own.
func (f *File) openChecked() (db *bolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, err
	}
	if info.Size() > 0 {
		unlock, err := lockFile(f.path)
		if err != nil {
			return nil, err
		}
		err = inspect(f.path)
		unlock()
		if err != nil {
			return nil, err
		}
	}
	db, err = bolt.Open(f.path, 0o600, f.boltOptions())
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, lockedError(f.cfg.Dir)
	case err != nil:
		return nil, err
	}
	return db, nil
}

func lockedError(dir string) error {
	return fmt.Errorf("%w: %s; stop the other cwprelay, or give this one a state.dir of its own", ErrLocked, dir)
}

// begin reads what the writer needs, and makes the cursors of new sinks.
func (f *File) begin() error {
	var row []byte
	err := f.db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		figures := tx.Bucket([]byte("meta")).Get([]byte("figures"))
		if err := decodeJSON(rowMeta, []byte("figures"), figures, &f.meta); err != nil {
			f.recount(tx)
			if figures != nil || f.meta.Bytes > 0 {
				f.report("the journal's figures are damaged and are counted anew")
			}
		}
		if err := f.beginLog(tx); err != nil {
			return err
		}
		if err := f.beginSinks(tx); err != nil {
			return err
		}
		var err error
		row, err = f.marksOf(tx)
		return err
	})
	if err != nil {
		return err
	}
	f.openMarks()
	f.writeMarks(row)
	if err := f.compactAtStart(); err != nil {
		f.report("the journal could not be compacted: %v", err)
	}
	f.reserve()
	return nil
}

// beginLog sees that no number is given twice: the next one stands in the file
// without a checksum.
func (f *File) beginLog(tx *bolt.Tx) error {
	log := tx.Bucket([]byte("log"))
	given := log.Sequence()
	f.last = given
	if k, _ := log.Cursor().Last(); k != nil {
		f.last = max(f.last, lastSeq(k))
	}
	err := tx.Bucket([]byte("cursor")).ForEach(func(k, row []byte) error {
		var c Cursor
		if decodeJSON(rowCursor, k, row, &c) == nil {
			f.last = max(f.last, c.Seq)
		}
		return nil
	})
	if err != nil || f.last == given {
		return err
	}
	f.report("the number of the last record was damaged and is found anew: %d", f.last)
	return log.SetSequence(f.last)
}

func (f *File) recount(tx *bolt.Tx) {
	f.meta.Bytes, f.meta.Keys, f.meta.Dead = 0, 0, 0
	for _, name := range []string{"log", "state", "dead"} {
		c := tx.Bucket([]byte(name)).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			f.meta.Bytes += int64(len(k) + len(v))
			switch name {
			case "state":
				f.meta.Keys++
			case "dead":
				f.meta.Dead++
			}
		}
	}
}

func (f *File) beginSinks(tx *bolt.Tx) error {
	if err := f.mend(tx); err != nil {
		return err
	}
	if err := beginCursors(tx, f.rules, f.last); err != nil {
		return err
	}
	return tx.Bucket([]byte("cursor")).ForEach(func(k, _ []byte) error {
		if !configured(f.rules, string(k)) {
			f.report(unusedCursor, k)
		}
		return nil
	})
}

const unusedCursor = "sink %s is no longer configured; its records are kept for state.retention only"

// beginCursors makes the cursors of sinks that were never seen. last is the
// sequence of the newest record.
func beginCursors(tx *bolt.Tx, rules []SinkRule, last uint64) error {
	b := tx.Bucket([]byte("cursor"))
	for _, rule := range rules {
		if b.Get([]byte(rule.Name)) != nil {
			continue
		}
		c := Cursor{Seq: last, Begin: last}
		if key, row := tx.Bucket([]byte("log")).Cursor().First(); key != nil && rule.StartFrom != StartNow {
			c.Seq, c.Begin = firstSeq(key, row)-1, firstSeq(key, row)-1
		}
		if err := putJSON(b, rowCursor, []byte(rule.Name), c); err != nil {
			return err
		}
	}
	return nil
}

func configured(rules []SinkRule, sink string) bool {
	return slices.ContainsFunc(rules, func(r SinkRule) bool { return r.Name == sink })
}

// Reconfigure puts other limits and sinks in force; the directory stays. The
// cursors of new sinks are stored before it returns nil; with an error nothing
// has changed. It is not called twice at once.
func (f *File) Reconfigure(ctx context.Context, cfg Config, sinks []SinkRule) error {
	limits, former := f.settings()
	change := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.limits, f.rules = cfg, sinks
	}
	if !slices.ContainsFunc(sinks, func(r SinkRule) bool { return !configured(former, r.Name) }) {
		change()
	} else if err := f.commit(ctx, &op{
		urgent: true, after: change,
		apply: func(tx *bolt.Tx) error { return engine(beginCursors(tx, sinks, tx.Bucket([]byte("log")).Sequence())) },
	}); err != nil {
		return fmt.Errorf("begin the cursors of new sinks: %w", err)
	}
	if limits.MaxBytes != cfg.MaxBytes || limits.MinFreeDisk != cfg.MinFreeDisk {
		f.mu.Lock()
		f.full = nil // the next append finds out
		f.mu.Unlock()
	}
	for _, r := range former {
		if !configured(sinks, r.Name) {
			f.report(unusedCursor, r.Name)
		}
	}
	return nil
}

// settings are the limits and sinks in force.
func (f *File) settings() (limits Config, rules []SinkRule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits, f.rules
}

// mend makes cursors and replays that can be read of those that cannot.
func (f *File) mend(tx *bolt.Tx) error {
	damaged := map[string]bool{}
	cursors, replays := tx.Bucket([]byte("cursor")), tx.Bucket([]byte("replay"))
	err := cursors.ForEach(func(k, row []byte) error {
		if err := decodeJSON(rowCursor, k, row, &Cursor{}); err != nil {
			damaged[string(k)] = true
		}
		return nil
	})
	for sink := range damaged {
		f.report("the cursor of sink %s is damaged: it begins again with the oldest record kept, so what it has had comes twice", sink)
		err = errors.Join(err, putJSON(cursors, rowCursor, []byte(sink), Cursor{}))
	}
	clear(damaged)
	err = errors.Join(err, replays.ForEach(func(k, row []byte) error {
		if err := decodeJSON(rowReplay, k, row, &Replay{}); err != nil {
			damaged[string(k)] = true
		}
		return nil
	}))
	for sink := range damaged {
		f.report("the replay of sink %s is damaged and has ended: begin it again", sink)
		err = errors.Join(err, replays.Delete([]byte(sink)))
	}
	return err
}

// compactAtStart gives space back to the disk when more than half of a large
// file is unused.
func (f *File) compactAtStart() error {
	stats := f.db.Stats()
	free := int64(stats.FreePageN) * int64(f.db.Info().PageSize)
	info, err := os.Stat(f.path)
	if err != nil || free < 256<<20 || free < info.Size()/2 {
		return err
	}
	if err := f.copyAnew(); err != nil {
		return err
	}
	f.report("the journal was compacted: %d MiB were unused", free>>20)
	return nil
}

// copyAnew copies all rows to a new file and goes on with that.
func (f *File) copyAnew() error {
	tmp := f.path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := bolt.Open(tmp, 0o600, f.boltOptions())
	if err != nil {
		return err
	}
	if err := errors.Join(bolt.Compact(dst, f.db, 16<<20), dst.Sync(), dst.Close()); err != nil {
		return err
	}
	f.dbMu.Lock()
	defer f.dbMu.Unlock()
	if err := f.db.Close(); err != nil {
		return err
	}
	if err := f.moveInto(tmp); err != nil {
		return err
	}
	f.db, err = bolt.Open(f.path, 0o600, f.boltOptions())
	return err
}

// reserve keeps some space of the disk for settlements. That it cannot is no
// failure: then there is none to give up.
func (f *File) reserve() {
	name := filepath.Join(f.cfg.Dir, reserveName)
	if info, err := os.Stat(name); err == nil && info.Size() == reserveBytes {
		return
	}
	if free, err := freeDisk(f.cfg.Dir); err != nil || free < 4*reserveBytes {
		return
	}
	_ = os.WriteFile(name, bytes.Repeat([]byte{0xA5}, reserveBytes), 0o600)
}

func (f *File) giveUpReserve() bool {
	return os.Remove(filepath.Join(f.cfg.Dir, reserveName)) == nil
}

// makeDir makes a directory whose name survives a loss of power, as do those of
// the directories above it that it makes.
func makeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	var above []string // of what is made
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			break
		}
		above = append(above, filepath.Dir(d))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range above {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close waits for commits under way and closes the file.
func (f *File) Close() error {
	var err error
	f.once.Do(func() {
		close(f.closed)
		<-f.gone
		f.dbMu.Lock()
		defer f.dbMu.Unlock()
		err = errors.Join(f.db.Close(), f.closeMarks())
	})
	return err
}

// Dead is closed when the journal cannot be used any more; Err says why.
func (f *File) Dead() <-chan struct{} { return f.dead }

// Err is why the journal is dead, nil while it is not.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.deadErr
}

// A fileLease holds until the next of its owner: the lock on the file keeps
// other processes out.
type fileLease struct {
	f     *File
	owner string
}

func (l *fileLease) Owner() string { return l.owner }

func (l *fileLease) Release() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.f.leases[l.owner] == l {
		delete(l.f.leases, l.owner)
	}
	return nil
}

// Lease takes the lease of an owner. What was begun under a former one is
// stored, or refused, when it returns.
func (f *File) Lease(_ context.Context, owner string) (Lease, error) {
	select {
	case <-f.closed:
		return nil, ErrClosed
	default:
	}
	l := &fileLease{f, owner}
	f.mu.Lock()
	f.leases[owner] = l
	f.mu.Unlock()
	f.committing.Lock() // a commit that runs may be the former holder's
	defer f.committing.Unlock()
	return l, nil
}

// owns is called where the write is made: a lease may be lost on the way there.
func (f *File) owns(l Lease, kind string) error {
	if l == nil || !strings.HasPrefix(l.Owner(), kind+"/") {
		return fmt.Errorf("%w: a %s lease is needed", ErrLeaseLost, kind)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leases[l.Owner()] != l {
		return fmt.Errorf("%w: %s", ErrLeaseLost, l.Owner())
	}
	return nil
}

// view reads a consistent state. What panics on a damaged page is an error.
func (f *File) view(read func(tx *bolt.Tx) error) (err error) {
	select {
	case <-f.closed:
		return ErrClosed
	default:
	}
	f.dbMu.RLock()
	defer f.dbMu.RUnlock()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the journal: %w: %v", errDamaged, p)
		}
	}()
	return f.db.View(read)
}

func putJSON(b *bolt.Bucket, kind byte, key []byte, v any) error {
	payload, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return b.Put(key, seal(kind, key, payload))
}

// Changed returns a channel that is closed once there is a record behind after.
func (f *File) Changed(after uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last > after {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	return f.changed
}

func (f *File) advance(last uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last > f.last {
		f.last = last
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// sinkNames are the configured sinks in order of their names.
func (f *File) sinkNames() []string {
	var names []string
	_, rules := f.settings()
	for _, r := range rules {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names
}

func (f *File) onFull(sink string) string {
	_, rules := f.settings()
	for _, r := range rules {
		if r.Name == sink {
			return r.OnFull
		}
	}
	return OnFullPause
}

var _ Journal = (*File)(nil)
