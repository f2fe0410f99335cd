package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A Checked is what a check of a whole journal found.
type Checked struct {
	Rows     int            `json:"rows"`               // that were read, each with its checksum
	Bytes    int64          `json:"bytes"`              // of them, keys included
	Damaged  map[string]int `json:"damaged"`            // rows that cannot be read, by what they are: "log", "state", …; empty: none
	Mistakes []string       `json:"mistakes,omitzero"`  // what does not fit together, in words
	SetAside []string       `json:"set_aside,omitzero"` // damaged files that this one was made of when it was opened
}

// Sound reports whether nothing was found.
func (c Checked) Sound() bool {
	return len(c.Damaged) == 0 && len(c.Mistakes) == 0 && len(c.SetAside) == 0
}

// A rowCheck reads one kind of rows.
type rowCheck struct {
	kind byte
	also byte // another kind of the same bucket; 0: none
	read func(key, row []byte) error
}

// unseal returns the payload of a row.
func (c rowCheck) unseal(key, row []byte) ([]byte, error) {
	if len(row) > 0 && row[0] == c.also {
		return unseal(c.also, key, row)
	}
	return unseal(c.kind, key, row)
}

// into reads a row of JSON.
func into[T any](kind byte) rowCheck {
	return rowCheck{kind: kind, read: func(key, row []byte) error {
		var v T
		return decodeJSON(kind, key, row, &v)
	}}
}

// unsealed reads a row by what decodes its payload.
func unsealed(kind byte, decode func(key, payload []byte) error) rowCheck {
	return rowCheck{kind: kind, read: func(key, row []byte) error {
		payload, err := unseal(kind, key, row)
		if err != nil {
			return err
		}
		return decode(key, payload)
	}}
}

func rowChecks() map[string]rowCheck {
	return map[string]rowCheck{
		"meta":   into[meta](rowMeta),
		"cursor": into[Cursor](rowCursor), "receipt": into[Receipt](rowReceipt), "source": into[Source](rowSource),
		"sweep": into[Certificate](rowSweep), "gap": into[Gap](rowGap), "replay": into[Replay](rowReplay),
		"memo": unsealed(rowMemo, func(_, _ []byte) error { return nil }),
		"log": {kind: rowRecord, also: rowRun, read: func(key, row []byte) error {
			_, err := openRow(key, row)
			return err
		}},
		"state": unsealed(rowState, func(_, payload []byte) error {
			_, err := decodeState(payload)
			return err
		}),
		"dead": unsealed(rowDead, func(key, payload []byte) error {
			_, err := decodeDead(lastSeq(key), payload)
			return err
		}),
	}
}

// Check reads every row of one moment, compares each with its checksum, and
// looks whether the figures, cursors and states fit the records. It changes
// nothing and may be used while others work; the file may grow meanwhile.
func (f *File) Check(ctx context.Context) (Checked, error) {
	c := Checked{Damaged: map[string]int{}, SetAside: f.aside}
	err := f.view(func(tx *bolt.Tx) error { return c.check(ctx, tx) })
	return c, err
}

func (c *Checked) check(ctx context.Context, tx *bolt.Tx) error {
	checks := rowChecks()
	bytesOf, rows := map[string]int64{}, map[string]int{}
	for _, name := range buckets() {
		b := tx.Bucket([]byte(name))
		if b == nil {
			c.Mistakes = append(c.Mistakes, "there is no place for "+name)
			continue
		}
		cursor := b.Cursor()
		for k, row := cursor.First(); k != nil; k, row = cursor.Next() {
			if c.Rows++; c.Rows%1000 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			rows[name]++
			bytesOf[name] += int64(len(k) + len(row))
			if checks[name].read(k, row) != nil {
				c.Damaged[name]++
			}
		}
		c.Bytes += bytesOf[name]
	}
	return c.fit(tx, rows, bytesOf)
}

// fit looks whether what is kept in several places agrees.
func (c *Checked) fit(tx *bolt.Tx, rows map[string]int, bytesOf map[string]int64) error {
	if len(c.Mistakes) > 0 {
		return nil
	}
	wrong := func(format string, args ...any) { c.Mistakes = append(c.Mistakes, fmt.Sprintf(format, args...)) }
	last := tx.Bucket([]byte("log")).Sequence()
	if k, _ := tx.Bucket([]byte("log")).Cursor().Last(); k != nil && lastSeq(k) > last {
		wrong("the newest record has number %d, the next one would get %d", lastSeq(k), last+1)
	}
	var m meta
	if row := tx.Bucket([]byte("meta")).Get([]byte("figures")); row != nil && decodeJSON(rowMeta, []byte("figures"), row, &m) == nil {
		if m.Keys != rows["state"] {
			wrong("%d events are counted, %d are kept", m.Keys, rows["state"])
		}
		if sum := bytesOf["log"] + bytesOf["state"] + bytesOf["dead"]; m.Bytes != sum {
			wrong("%d bytes are counted, %d are used", m.Bytes, sum)
		}
	}
	err := tx.Bucket([]byte("cursor")).ForEach(func(k, row []byte) error {
		var at Cursor
		if decodeJSON(rowCursor, k, row, &at) == nil && at.Seq > last {
			wrong("the cursor of sink %s is at %d, the newest record is %d", k, at.Seq, last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.Bucket([]byte("state")).ForEach(func(k, row []byte) error {
		payload, err := unseal(rowState, k, row)
		if err != nil {
			return nil //nolint:nilerr // it is counted already
		}
		if st, err := decodeState(payload); err == nil && st.LastRecord > last {
			wrong("the last record of event %q is %d, the newest record is %d", k, st.LastRecord, last)
		}
		return nil
	})
}

// Export writes the whole journal as it is at one moment to w: a file that
// Import takes. It may be used while others work; the file may grow meanwhile.
func (f *File) Export(ctx context.Context, w io.Writer) error {
	return f.view(func(tx *bolt.Tx) error {
		if _, err := tx.WriteTo(untilDone{ctx, w}); err != nil {
			return fmt.Errorf("export the journal: %w", err)
		}
		return nil
	})
}

// untilDone is a writer that fails once ctx is done.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(b)
}

// Compact writes the journal anew without the space that it does not use, and
// returns its size before and after. It needs as much free disk as the journal
// then has, and a File that nobody else uses yet.
func (f *File) Compact() (before, after int64, err error) {
	if before, err = fileSize(f.path); err != nil {
		return 0, 0, err
	}
	if err = f.copyAnew(); err != nil {
		return before, before, fmt.Errorf("compact the journal: %w", err)
	}
	after, err = fileSize(f.path)
	return before, after, err
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// ErrExists means that a directory has a journal already.
var ErrExists = errors.New("there is a journal already")

// Import puts an exported journal into a directory that no process uses, after
// a check of all of it. A journal that is there is an ErrExists, or with replace
// set aside under the name that is returned. Nothing changes on an error.
func Import(ctx context.Context, dir string, from io.Reader, replace bool) (found Checked, aside string, err error) {
	if err := makeDir(dir); err != nil {
		return found, "", fmt.Errorf("make the state directory: %w", err)
	}
	path := filepath.Join(dir, fileName)
	_, err = os.Stat(path)
	there := err == nil
	switch {
	case there && !replace:
		return found, "", fmt.Errorf("%w in %s", ErrExists, dir)
	case there:
		unlock, err := lockFile(path) // held to the end: no process may begin meanwhile
		if err != nil {
			return found, "", err
		}
		defer unlock()
	}
	tmp := filepath.Join(dir, "import.tmp")
	defer func() { _ = os.RemoveAll(tmp) }() // what is left of it
	if err := os.RemoveAll(tmp); err != nil {
		return found, "", err
	}
	if found, err = receive(ctx, tmp, from); err != nil {
		return found, "", err
	}
	if there {
		aside = fmt.Sprintf("%s.replaced-%s", path, time.Now().UTC().Format("20060102T150405.000"))
		if err := keepAside(path, aside); err != nil {
			return found, "", err
		}
	}
	if err := os.Rename(filepath.Join(tmp, fileName), path); err != nil {
		return found, aside, err
	}
	return found, aside, syncDir(dir)
}

// receive writes an exported journal into a directory of its own and checks it
// as it is: nothing is mended.
func receive(ctx context.Context, dir string, from io.Reader) (found Checked, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return found, err
	}
	path := filepath.Join(dir, fileName)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return found, err
	}
	_, err = io.Copy(untilDone{ctx, file}, from)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return found, fmt.Errorf("write the journal: %w", err)
	}
	f := &File{cfg: Config{Dir: dir}, path: path, closed: make(chan struct{})}
	db, err := f.openChecked()
	if err != nil {
		return found, fmt.Errorf("this is no sound journal: %w", err)
	}
	f.db = db
	found, err = f.Check(ctx)
	if err = errors.Join(err, db.Close()); err != nil {
		return found, fmt.Errorf("this is no sound journal: %w", err)
	}
	if !found.Sound() {
		return found, fmt.Errorf("%w: the journal to be imported does not pass its check", errDamaged)
	}
	return found, nil
}

// IsThere reports whether a directory has a journal.
func IsThere(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, fileName))
	return !errors.Is(err, fs.ErrNotExist)
}
