package format_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// fresh returns the record without what was derived from it.
func fresh(r *event.Record) *event.Record {
	return &event.Record{
		Seq: r.Seq, Key: r.Key, UID: r.UID, Sequence: r.Sequence, Revision: r.Revision,
		Action: r.Action, Status: r.Status, Previous: r.Previous, FirstDetect: r.FirstDetect,
		ObservedAt: r.ObservedAt, Dialect: r.Dialect, Zone: r.Zone, Source: r.Source, Raw: r.Raw,
	}
}

// BenchmarkOf is the reading that all sinks share.
func BenchmarkOf(b *testing.B) {
	r := record(b, with(b, nil), ordinary())
	b.SetBytes(int64(len(r.Raw)))
	b.ReportAllocs()
	for b.Loop() {
		format.Of(fresh(r))
	}
}

// BenchmarkEncode is the writing, after the reading.
func BenchmarkEncode(b *testing.B) {
	for _, name := range format.Names() {
		b.Run(name, func(b *testing.B) {
			r := record(b, with(b, nil), ordinary())
			enc, err := format.New(name, format.Config{})
			if err != nil {
				b.Fatal(err)
			}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = enc(buf[:0], r); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

// BenchmarkHEC is the envelope around an encoded body.
func BenchmarkHEC(b *testing.B) {
	r := record(b, with(b, nil), ordinary())
	body := encode(b, format.Splunk, r)
	var buf []byte
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if buf, err = format.AppendHEC(buf[:0], r, body, format.HECOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkMaps is what the same work costs at the least with encoding/json,
// maps and fmt: reading the event, and writing the document of each format
// from a map that is there already. No mapping stands between.
func BenchmarkMaps(b *testing.B) {
	r := record(b, with(b, nil), ordinary())
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v map[string]any
			if err := json.Unmarshal(r.Raw, &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, name := range []string{format.ECS, format.OCSF, format.Splunk} {
		var doc map[string]any
		if err := json.Unmarshal(encode(b, name, r), &doc); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := json.Marshal(doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, escape := range map[string]*strings.Replacer{
		format.CEF:  strings.NewReplacer(`\`, `\\`, "=", `\=`, "\n", `\n`, "\r", `\r`),
		format.LEEF: strings.NewReplacer("\t", " ", "\n", `\n`),
	} {
		read := readCEF
		if name == format.LEEF {
			read = readLEEF
		}
		_, doc, err := read(string(encode(b, name, r)))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var out strings.Builder
				for _, key := range slices.Sorted(maps.Keys(doc)) {
					fmt.Fprintf(&out, " %s=%s", key, escape.Replace(doc[key]))
				}
			}
		})
	}
}
