package main

import (
	"bytes"
	"io"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/dedupe"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
)

// staged are records as the stages see them: of the same events as the whole
// process is measured with.
func staged(b *testing.B, n int) (l *list, records []*event.Record) {
	b.Helper()
	l, err := newList(b.Context(), max(n, distinct))
	if err != nil {
		b.Fatal(err)
	}
	kind := cwp.KindByName("risk_process")
	for i := range n {
		raw := l.append(nil, i, 0)
		key := event.Key{Account: event.DefaultAccount, Kind: kind.Name, ID: strconv.Itoa(firstID + i)}
		revision := kind.Revision(raw)
		records = append(records, &event.Record{
			Key: key, UID: key.EventUID(1, revision), Sequence: 1, Revision: revision,
			Action: event.Detected, Status: kind.Status("record", "0"), ObservedAt: time.Unix(1_795_000_000, 0).UTC(),
			Dialect: "record", Zone: "Asia/Shanghai", Source: "prod", Sweep: "s-1", Page: 1, Raw: raw,
		})
	}
	return l, records
}

// perEvent reports the time of one event where an iteration has several.
func perEvent(b *testing.B, events int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
}

// BenchmarkStages is the way of an event, stage by stage.
func BenchmarkStages(b *testing.B) {
	const n = 500
	l, records := staged(b, n)
	kind := cwp.KindByName("risk_process")
	i := 0
	next := func() *event.Record {
		i++
		return records[i%n]
	}

	b.Run("poll", func(b *testing.B) { // a page over HTTP, with the answering side
		server := httptest.NewServer(newAPI(l))
		defer server.Close()
		cfg := cwp.Config{
			Endpoint: server.URL, RequestsPerSecond: maxRate,
			Credentials: cwp.CredentialsConfig{Provider: "static", SecretID: "AKIDbench", SecretKey: secret.New("bench")},
		}.WithDefaults()
		provider, err := cwp.NewProvider(cfg, func(string) string { return "" })
		if err != nil {
			b.Fatal(err)
		}
		client, err := cwp.New(cfg, kind, cwp.Options{Credentials: provider, Limits: cwp.NewLimits()})
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.List(b.Context(), cwp.Query{Limit: 100, Offset: i % 10 * 100}); err != nil {
				b.Fatal(err)
			}
			i++
		}
		perEvent(b, 100)
	})
	b.Run("judge a known event", func(b *testing.B) {
		set := dedupe.New()
		for _, r := range records {
			set.Load(r.Key.ID, event.State{Status: r.Status, Sequence: 1, FirstDetect: "2026-11-27 10:00:00"})
		}
		sight := dedupe.Sight{Status: "0", At: 1_795_000_000, Mark: 1, SentAt: time.Now()}
		b.ReportAllocs()
		for b.Loop() {
			sight.ID = next().Key.ID
			if verdict, _ := set.Judge(sight); verdict != dedupe.Known {
				b.Fatal("not known")
			}
		}
	})
	b.Run("revision and uid", func(b *testing.B) { // of what was found while the answer was read
		list := []byte{'['}
		for _, r := range records {
			list = append(append(list, r.Raw...), ',')
		}
		list[len(list)-1] = ']'
		items, err := kind.ReadItems(bytes.NewReader(list))
		if err != nil || len(items) != n {
			b.Fatalf("%d items, %v", len(items), err)
		}
		b.ReportAllocs()
		for b.Loop() {
			r := next()
			r.Key.EventUID(1, kind.RevisionOf(&items[i%n]))
		}
	})
	b.Run("journal, append", func(b *testing.B) { // one commit, synced
		j, err := journal.Open(journal.Config{Dir: b.TempDir()}.WithDefaults(), journal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer j.Close()
		lease, err := j.Lease(b.Context(), "source/prod/risk_process")
		if err != nil {
			b.Fatal(err)
		}
		id := firstID
		b.ReportAllocs()
		for b.Loop() {
			changes := make([]journal.Change, n)
			for i, r := range records {
				id++
				rec := r.Again()
				rec.Replayed, rec.Key.ID = false, strconv.Itoa(id)
				changes[i] = journal.Change{Key: rec.Key, State: event.State{Status: rec.Status, Sequence: 1}, Record: rec}
			}
			last, err := j.Append(b.Context(), lease, journal.Batch{Changes: changes})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := j.Read(b.Context(), last-1, 1, 0); err != nil { // a reader that keeps up
				b.Fatal(err)
			}
		}
		perEvent(b, n)
	})
	b.Run("read for the formats", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			format.Of(next().Again())
		}
	})
	bodies := map[string][][]byte{}
	for _, name := range []string{format.Splunk, format.ECS, format.OCSF, format.CEF} {
		encode, err := format.New(name, format.Config{})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range records {
			body, err := encode(nil, r)
			if err != nil {
				b.Fatal(err)
			}
			bodies[name] = append(bodies[name], body)
		}
		b.Run("encode "+name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = encode(buf[:0], next()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	opts := format.HECOptions{Object: true}
	b.Run("envelope of HEC", func(b *testing.B) {
		var buf []byte
		var err error
		b.ReportAllocs()
		for b.Loop() {
			r := next()
			if buf, err = format.AppendHEC(buf[:0], r, bodies[format.Splunk][i%n], opts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("gzip of HEC", func(b *testing.B) {
		var all []byte
		for i, r := range records {
			var err error
			if all, err = format.AppendHEC(all, r, bodies[format.Splunk][i], opts); err != nil {
				b.Fatal(err)
			}
		}
		z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(all)))
		b.ReportAllocs()
		for b.Loop() {
			z.Reset(io.Discard)
			if _, err := io.Copy(z, bytes.NewReader(all)); err != nil {
				b.Fatal(err)
			}
			if err := z.Close(); err != nil {
				b.Fatal(err)
			}
		}
		perEvent(b, n)
	})
}

// maxRate is as good as no limit.
const maxRate = 10_000

// A regression of more than a tenth is one; a new baseline is no regression.
func TestRegressionIsSeen(t *testing.T) {
	before := Instructions{DeliverRatio: 1, RereadRatio: 0.2}
	path := t.TempDir() + "/baseline.json"
	if err := writeBaseline(path, before); err != nil {
		t.Fatal(err)
	}
	for ratios, bad := range map[[2]float64]int{{1, 0.2}: 0, {1.09, 0.219}: 0, {0.5, 0.1}: 0, {1.11, 0.2}: 1, {1, 0.23}: 1, {2, 1}: 2} {
		err := Instructions{DeliverRatio: ratios[0], RereadRatio: ratios[1]}.compare(path)
		n := 0
		if err != nil {
			n = len(err.(interface{ Unwrap() []error }).Unwrap())
		}
		if n != bad {
			t.Errorf("ratios %v: %d complaints, want %d: %v", ratios, n, bad, err)
		}
	}
	if err := (Instructions{}).compare(path + ".missing"); err == nil {
		t.Error("a missing baseline is no error")
	}
}
