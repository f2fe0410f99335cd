package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// print writes the medians as a table.
func (r *Report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var err error
	line := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(t, format, args...)
		}
	}
	line("%s, %s, %d events of %d bytes, medians of %d runs, %d processors, %s\n",
		r.Scenario, r.Sink, r.Events, r.RecordSize, len(r.Contenders[0].Runs), r.CPUs, r.System)
	line("\tevents/s\tseconds\tCPU s\tCPU s per million\tpeak RSS MiB\tof it anonymous\trequests\tsent MiB\tstart s\tits CPU s\tidle %%\tbudget used %%\trefused\tdelay median s\tp99 s\t\n")
	for _, c := range r.Contenders {
		m := c.Median
		line("%s\t%.0f\t%.2f\t%.2f\t%.1f\t%.0f\t%.0f\t%d\t%.1f\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%.2f\t%.2f\t\n", c.Name, m.EventsPerSecond, m.Seconds,
			m.CPUSeconds, m.CPUPerMillion, m.PeakRSS, m.PeakAnon, m.Requests, m.SentMiB, m.StartSeconds, m.StartCPU, m.IdlePercent, m.BudgetUsed, m.Refused, m.DelayMedian, m.DelayMost)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Ratios)) {
		line("%s: %s has %.2f times that of %s\n", name, r.Contenders[0].Name, r.Ratios[name], r.Contenders[1].Name)
	}
	if err != nil {
		return err
	}
	return t.Flush()
}
