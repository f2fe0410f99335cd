package event_test

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

func TestFindingUID(t *testing.T) {
	k := event.Key{Account: "100012345678", Kind: "risk_process", ID: "24"}
	if got, want := k.FindingUID(), "tencent-cwp:100012345678:risk_process:24"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if k.FindingUID() == (event.Key{Account: event.DefaultAccount, Kind: k.Kind, ID: k.ID}).FindingUID() {
		t.Error("two accounts share a finding")
	}
}

func TestEventUID(t *testing.T) {
	// From the published example of the format.
	k := event.Key{Account: "100012345678", Kind: "risk_process", ID: "24"}
	const revision = "661e868bf6cf0eb1a482d516087e1922b90c0b24d915b9591c45e916e1b495b1"
	uid := k.EventUID(1, revision)
	if want := "706c0eed74049318a0b5e29cff41f011a9fc23a3"; uid != want {
		t.Errorf("%s, want %s", uid, want)
	}
	sum := sha256.Sum256([]byte(k.FindingUID() + "\n1\n" + revision))
	if want := hex.EncodeToString(sum[:20]); uid != want {
		t.Errorf("%s, want %s", uid, want)
	}
	for name, other := range map[string]string{
		"finding":  event.Key{Account: k.Account, Kind: k.Kind, ID: "240"}.EventUID(1, revision),
		"sequence": k.EventUID(2, revision),
		"revision": k.EventUID(1, revision[1:]),
	} {
		if other == uid || len(other) != 40 {
			t.Errorf("another %s gives %s", name, other)
		}
	}
}

func TestActionFor(t *testing.T) {
	open, killing := event.Status{Symbol: "pending"}, event.Status{Symbol: "scanning"}
	closed, ignored := event.Status{Symbol: "scanned", Closed: true}, event.Status{Symbol: "ignored", Closed: true}
	unknown := event.Status{Code: "9", Symbol: event.UnknownStatus}
	tests := map[string]struct {
		before, after event.Status
		want          event.Action
	}{
		"open stays open":     {open, killing, event.StatusChanged},
		"closed stays closed": {closed, ignored, event.StatusChanged},
		"open to closed":      {killing, closed, event.Closed},
		"closed to open":      {ignored, open, event.Reopened},
		"open to unknown":     {open, unknown, event.StatusChanged},
		"unknown to closed":   {unknown, closed, event.Closed},
		"closed to unknown":   {closed, unknown, event.Reopened},
	}
	for name, tt := range tests {
		if got := event.ActionFor(tt.before, tt.after); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// However many sinks ask, what is derived of a record is built once.
func TestDerivedIsBuiltOnce(t *testing.T) {
	var r event.Record
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got := r.Derived(func(of *event.Record) any {
				built.Add(1)
				return of
			})
			if got != any(&r) {
				t.Errorf("derived %v", got)
			}
		})
	}
	wg.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

// A copy for a replay lacks nothing of the record, whatever is added to it.
func TestAgainCopiesEverything(t *testing.T) {
	var r event.Record
	v := reflect.ValueOf(&r).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		if !f.IsExported() || len(f.Index) > 1 {
			continue
		}
		switch field := v.FieldByIndex(f.Index); field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Int:
			field.SetInt(7)
		case reflect.Uint64:
			field.SetUint(7)
		case reflect.Slice:
			field.SetBytes([]byte("{}"))
		case reflect.Struct:
			if field.Type() == reflect.TypeFor[time.Time]() {
				field.Set(reflect.ValueOf(time.Unix(7, 0)))
			} else {
				field.Field(0).SetString("x")
			}
		default:
			t.Fatalf("field %s: what is a %s?", f.Name, field.Kind())
		}
	}
	if got := r.Again(); !reflect.DeepEqual(got, &r) {
		t.Errorf("copy is %+v, want %+v", got, &r)
	}
	r.Replayed = false
	if !r.Again().Replayed {
		t.Error("the copy is not marked")
	}
}
