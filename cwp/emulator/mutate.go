package emulator

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// invent makes an event that was detected just now, with the next free id. It
// is one of the cast, and now and then departs from the documents as records
// of the API may.
func (w *World) invent() *row {
	random := w.changes
	r := &row{
		host:   w.cast.hosts[random.IntN(len(w.cast.hosts))],
		threat: w.cast.threats[random.IntN(len(w.cast.threats))],
		pid:    int64(300 + random.IntN(1<<21)),
		md5:    fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()),
		manual: random.IntN(4) == 0,
		now:    version{status: "0", detect: w.wall(0)},
	}
	own := strconv.FormatUint(random.Uint64N(1<<32), 36)
	r.path = r.threat.paths[random.IntN(len(r.threat.paths))]
	if strings.HasSuffix(r.path, ".") {
		r.path += own
	}
	r.command = r.path + " " + r.threat.commands[random.IntN(len(r.threat.commands))] + " " + own
	r.start = w.wall(-time.Duration(random.IntN(600)) * time.Second)

	switch n := random.IntN(400); {
	case n < 4:
		r.form = nulls
	case n < 8:
		r.form = extra
	case n < 12:
		r.form = escaped
	case n < 18:
		r.command = hostile(random)
	case n < 19:
		r.pid = 0
	}
	// Every fiftieth id is one that a float64 cannot hold.
	if random.IntN(50) == 0 {
		w.lastBigID += 2
		r.id = strconv.FormatInt(w.lastBigID-1, 10)
	} else {
		w.lastID += 1 + random.Int64N(3)
		r.id = strconv.FormatInt(w.lastID, 10)
	}
	return r
}

// apply makes r what e asks for.
func (w *World) apply(r *row, e Event) {
	if e.ID != 0 {
		r.id = strconv.FormatInt(e.ID, 10)
	}
	r.now.status = strconv.Itoa(e.Status)
	r.start, r.now.detect = w.wall(0), w.wall(0)
	if e.Start != "" {
		r.start = e.Start
	}
	if e.Detect != "" {
		r.now.detect = e.Detect
	}
	if e.VirusName != "" {
		r.threat = w.threat(e.VirusName)
	}
	if e.ProcessID != 0 {
		r.pid = e.ProcessID
	}
	if e.FilePath != "" {
		r.path = e.FilePath
	}
	if e.CmdLine != "" {
		r.command = e.CmdLine
	}
	if e.ProcessID != 0 || e.CmdLine != "" {
		r.form = plain // the form nulls would not show them
	}
}

func (w *World) threat(name string) *threat {
	for _, t := range w.cast.threats {
		if t.name == name {
			return t
		}
	}
	return other(name)
}

// history invents events of the last ninety days: most of them handled, many
// alone, some in bursts of one second, one burst larger than any answer where
// there is room, a few without a start time.
func (w *World) history(n int) []*row {
	const days = 90
	random := w.changes
	rows := make([]*row, 0, n)
	second := func() time.Duration {
		return -time.Duration(random.Int64N(days*24*3600)) * time.Second
	}
	for len(rows) < n {
		burst := 1
		switch {
		case n >= 1000 && len(rows) == 0:
			burst = maxLimit + 30
		case random.IntN(20) == 0:
			burst = 2 + random.IntN(12)
		}
		ago := second()
		start := w.wall(ago)
		for range min(burst, n-len(rows)) {
			r := w.invent()
			r.start = start
			r.now.detect = w.wall(ago + time.Duration(random.Int64N(int64(-ago/time.Second)/10+2))*time.Second)
			r.now.status = oldStatus(random.IntN(100))
			switch random.IntN(500) {
			case 0:
				r.start = Null
			case 1:
				r.start = Blank
			case 2:
				r.start = "0001-01-01 00:00:00"
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// oldStatus spreads a hundredth over the statuses of events that people have
// had time for.
func oldStatus(n int) string {
	switch {
	case n < 30:
		return "0"
	case n < 45:
		return "1"
	case n < 47:
		return "2"
	case n < 75:
		return "3"
	case n < 90:
		return "4"
	case n < 99:
		return "5"
	default:
		return "9" // not in any list
	}
}

// An Op is one of the things that happen to the list.
type Op string

// The operations.
const (
	OpInsert     Op = "insert"      // a new event
	OpLate       Op = "late"        // a new event whose process started long ago
	OpBurst      Op = "burst"       // many events of one second, now and then more than an answer holds
	OpNoTime     Op = "no_time"     // a new event without a start time
	OpProgress   Op = "progress"    // a status moves on: pending, killing, killed, or exited
	OpIgnore     Op = "ignore"      // an event is ignored or handled by hand
	OpReopen     Op = "reopen"      // a closed event is pending again
	OpRedetect   Op = "redetect"    // detection times move
	OpFlap       Op = "flap"        // a host goes offline or comes back; no change of the event
	OpDelete     Op = "delete"      // an event is deleted
	OpBulkStatus Op = "bulk_status" // somebody handles many events at once
	OpBulkDelete Op = "bulk_delete" // somebody deletes many events at once
)

// Ops returns all operations, in a fixed order.
func Ops() []Op {
	return []Op{
		OpInsert, OpLate, OpBurst, OpNoTime, OpProgress, OpIgnore, OpReopen, OpRedetect, OpFlap,
		OpDelete, OpBulkStatus, OpBulkDelete,
	}
}

// weight is how often of a thousand times an operation happens.
func (op Op) weight() int {
	switch op {
	case OpInsert:
		return 330
	case OpLate:
		return 60
	case OpBurst:
		return 6
	case OpNoTime:
		return 8
	case OpProgress:
		return 260
	case OpIgnore:
		return 70
	case OpReopen:
		return 40
	case OpRedetect:
		return 140
	case OpFlap:
		return 40
	case OpDelete:
		return 40
	case OpBulkStatus:
		return 4
	default:
		return 2 // OpBulkDelete
	}
}

// Step lets one operation happen at the time now, chosen by the seed, and
// returns it. It may turn out to change nothing: there was nothing to delete.
func (w *World) Step(now time.Time) Op {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(now)
	n := w.changes.IntN(1000)
	for _, op := range Ops() {
		if n -= op.weight(); n < 0 {
			w.do(op)
			return op
		}
	}
	panic("the weights of the operations do not add up to a thousand")
}

// Do lets an operation happen at the time now. It does nothing for an unknown
// one.
func (w *World) Do(op Op, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(now)
	w.do(op)
}

func (w *World) do(op Op) {
	random := w.changes
	switch op {
	case OpInsert:
		w.born(w.invent())
	case OpLate:
		r := w.invent()
		r.start = w.wall(-time.Duration(random.Int64N(60*24*3600)+3600) * time.Second)
		w.born(r)
	case OpBurst:
		n := 5 + random.IntN(40)
		if random.IntN(4) == 0 {
			n = maxLimit + 1 + random.IntN(60)
		}
		w.burst(n)
	case OpNoTime:
		r := w.invent()
		r.start = []string{Null, Blank, "0001-01-01 00:00:00"}[random.IntN(3)]
		w.born(r)
	case OpProgress:
		w.progress()
	case OpIgnore:
		w.setStatus([]string{"5", "1"}[random.IntN(2)], w.some(1, "0", "2"))
	case OpReopen:
		w.setStatus("0", w.some(1, "1", "3", "4", "5"))
	case OpRedetect:
		w.redetect(w.some(1+random.IntN(3)), w.wall(0))
	case OpFlap:
		w.flap(w.some(1))
	case OpDelete:
		w.remove(w.some(1))
	case OpBulkStatus:
		w.setStatus([]string{"1", "3", "5"}[random.IntN(3)], w.some(w.crowd(), "0", "2"))
	case OpBulkDelete:
		w.remove(w.some(w.crowd()))
	}
}

func (w *World) born(rows ...*row) {
	w.changed()
	w.add(rows...)
}

// burst inserts n events that started in one second.
func (w *World) burst(n int) {
	rows := make([]*row, n)
	for i := range rows {
		rows[i] = w.invent()
		rows[i].start = rows[0].start
	}
	w.born(rows...)
}

// Burst inserts n events that started in one second, in one change, and
// returns their ids.
func (w *World) Burst(n int, now time.Time) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(now)
	first := len(w.rows)
	if n > 0 {
		w.burst(n)
	}
	ids := make([]string, 0, n)
	for _, r := range w.rows[first:] {
		ids = append(ids, r.id)
	}
	return ids
}

// progress moves one event on its way: 0 to 2 to 3, or to 4.
func (w *World) progress() {
	rows := w.some(1, "0", "2")
	if len(rows) == 0 {
		return
	}
	next := "2"
	switch {
	case rows[0].now.status == "2":
		next = "3"
	case w.changes.IntN(4) == 0:
		next = "4"
	}
	w.setStatus(next, rows)
}

// crowd is how many events a bulk operation takes: up to a tenth of the list.
func (w *World) crowd() int {
	return 2 + w.changes.IntN(min(max(len(w.visible)/10, 1), 300))
}

// some chooses up to n different visible events, of certain statuses if any
// are given. It looks at a bounded number of them, so it may find fewer.
func (w *World) some(n int, statuses ...string) []*row {
	var rows []*row
	if len(w.visible) == 0 {
		return nil
	}
	seen := make(map[*row]bool, n)
	for range 4*n + 8 {
		r := w.visible[w.changes.IntN(len(w.visible))]
		wanted := len(statuses) == 0
		for _, s := range statuses {
			wanted = wanted || r.now.status == s
		}
		if wanted && !seen[r] {
			rows, seen[r] = append(rows, r), true
		}
		if len(rows) == n {
			break
		}
	}
	return rows
}
