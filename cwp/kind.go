package cwp

import (
	"slices"

	"github.com/cwprelay/cwprelay/event"
)

// A Kind is one row of the registry: everything that polling needs to know of
// one list action of the API. A further kind is a further row here and a
// mapping in package format; nothing else changes.
type Kind struct {
	Name    string // "risk_process": in keys, configuration, metrics
	Service string // signed service name and first label of the endpoint
	Version string
	Action  string
	Sites   []string // sites that offer the action: "cn", "intl"

	Params map[string]any // constant members of every request

	ListKey     string // member of Response that holds the items; may be null
	IDField     string // integer or string
	StatusField string
	// Dialects maps the name of a reading to the vendor's value (as text) to its
	// meaning. The first reading of DialectNames is the default.
	Dialects     map[string]map[string]event.Status
	DialectNames []string

	// SweepTime is the field that never changes for an event and that the time
	// filter acts on: sweeps page by it. HeadTime is the field that moves when
	// the event is detected again: head scans page by it.
	SweepTime, HeadTime string

	BeginFilter, EndFilter string // names of the filters on SweepTime, both inclusive as far as anybody knows
	StatusFilter           string // name of the filter on the status
	StatusFilterValues     []string

	// Splits are filters that part the events of one second further, with the
	// field whose value they take.
	Splits []Split

	BySweepTime, ByHeadTime string // values of By
	Ascending, Descending   string // values of Order
	MaxLimit                int    // most items in one answer

	SourceFilters  []string // filter names that a source may set
	Trackable      []string // fields that changed_on may name beside StatusField
	RevisionFields []string // fields whose values make a revision; lists are sorted
}

// A Split is a filter and the field of an item that it acts on.
type Split struct{ Filter, Field string }

// MaxFilters is how many filters one request may have, after the comment on
// the data type Filter in the vendor's SDKs.
const MaxFilters = 5

// Kinds returns the registry.
func Kinds() []*Kind {
	return []*Kind{riskProcess()}
}

// KindByName returns the row of that name, nil when there is none.
func KindByName(name string) *Kind {
	for _, k := range Kinds() {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// HasSite reports whether the action is offered at a site.
func (k *Kind) HasSite(site string) bool { return slices.Contains(k.Sites, site) }

// Status reads a vendor value by a dialect. A value that the dialect does not
// know gives event.UnknownStatus and keeps its code.
func (k *Kind) Status(dialect, code string) event.Status {
	if s, ok := k.Dialects[dialect][code]; ok {
		return s
	}
	return event.Status{Code: code, Symbol: event.UnknownStatus}
}

// riskProcess is DescribeRiskProcessEvents: malicious processes.
//
// Sources: the vendor's API pages (Chinese and international) and the models
// of its SDKs. Both statuses lists are the vendor's: the one of the record
// (data type RiskProcessEvent) and the one of the request filter contradict
// each other from 2 on, and nothing public settles which numbering records
// bear; hence the dialects.
func riskProcess() *Kind {
	dialect := func(rows ...event.Status) map[string]event.Status {
		m := make(map[string]event.Status, len(rows))
		for _, s := range rows {
			m[s.Code] = s
		}
		return m
	}
	return &Kind{
		Name: "risk_process", Service: "cwp", Version: "2018-02-28",
		Action: "DescribeRiskProcessEvents", Sites: []string{"cn", "intl"},
		ListKey: "List", IDField: "EventId", StatusField: "HandleStatus",
		Dialects: map[string]map[string]event.Status{
			"record": dialect(
				event.Status{Code: "0", Symbol: "pending"},
				event.Status{Code: "1", Symbol: "processed", Closed: true},
				event.Status{Code: "2", Symbol: "scanning"},
				event.Status{Code: "3", Symbol: "scanned", Closed: true},
				event.Status{Code: "4", Symbol: "exited", Closed: true},
				event.Status{Code: "5", Symbol: "ignored", Closed: true},
			),
			"filter": dialect(
				event.Status{Code: "0", Symbol: "pending"},
				event.Status{Code: "1", Symbol: "scanning"},
				event.Status{Code: "2", Symbol: "scanned", Closed: true},
				event.Status{Code: "3", Symbol: "exited", Closed: true},
				event.Status{Code: "4", Symbol: "trusted", Closed: true},
			),
		},
		DialectNames: []string{"record", "filter"},
		SweepTime:    "StartTime", HeadTime: "DetectTime",
		// The second name is EndTime on both sites: the Chinese models say so
		// since the first release. The international model of SDK 3.1.193
		// still prints BeginTime twice, the second time described as "end".
		BeginFilter: "BeginTime", EndFilter: "EndTime",
		StatusFilter: "Status", StatusFilterValues: []string{"0", "1", "2", "3", "4"},
		Splits: []Split{
			{Filter: "IpOrName", Field: "HostIp"},
			{Filter: "VirusName", Field: "VirusName"},
			{Filter: "FilePath", Field: "FilePath"},
			{Filter: "ProcessId", Field: "ProcessId"},
		},
		BySweepTime: "StartTime", ByHeadTime: "DetectTime",
		Ascending: "ASC", Descending: "DESC", MaxLimit: 100,
		SourceFilters: []string{"HostId", "IpOrName", "VirusName", "ProcessId", "FilePath"},
		Trackable:     []string{"DetectTime"},
		RevisionFields: []string{
			"CheckPlatform", "DetectTime", "FilePath", "HandleStatus",
			"ProcessId", "StartTime", "VirusName", "VirusTags",
		},
	}
}
