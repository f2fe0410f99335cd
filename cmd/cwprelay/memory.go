package main

import (
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	gc "runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// tuneMemory fits the garbage collector to this program: much passes through a
// small heap while a list is read, and with millions of known events the heap
// is large and hardly changes. The variables GOGC and GOMEMLIMIT go before it.
func tuneMemory(environ []string) {
	env := lookup(environ)
	if env("GOMEMLIMIT") == "" {
		if limit := cgroupLimit("/"); limit < math.MaxInt64 {
			debug.SetMemoryLimit(limit / 10 * 9) // the rest is for what is not the heap's
		}
	}
	if env("GOGC") == "" {
		afterCollection()
	}
	go giveBack()
}

// giveBack returns memory to the system that a sweep or a burst needed, soon
// after it: the runtime keeps what was freed, and collects every two minutes
// only where little is allocated.
func giveBack() {
	var was uint64
	for range time.Tick(10 * time.Second) {
		samples := []gc.Sample{
			{Name: "/gc/heap/allocs:bytes"},
			{Name: "/gc/heap/live:bytes"},
			{Name: "/memory/classes/heap/objects:bytes"},
			{Name: "/memory/classes/heap/free:bytes"},
		}
		gc.Read(samples)
		var n [4]uint64
		for i := range samples {
			if samples[i].Value.Kind() == gc.KindUint64 {
				n[i] = samples[i].Value.Uint64()
			}
		}
		if worthGivingBack(n[0]-was, n[2]-min(n[1], n[2])+n[3]) {
			debug.FreeOSMemory()
		}
		was = n[0]
	}
}

// worthGivingBack says so where little was allocated in the last ten seconds
// and much is held that nothing needs: garbage, and what is free.
func worthGivingBack(allocated, unneeded uint64) bool {
	return allocated < 2<<20 && unneeded > 6<<20
}

// garbageBeside is how many bytes of garbage may gather beside so many that are
// alive: enough that collections are few, not so much that it shows. Both
// together stay below 60 MiB as long as they can.
func garbageBeside(alive uint64) uint64 {
	const least, most, both = 12 << 20, 32 << 20, 60 << 20
	return max(min(2*alive, most, both-min(alive, both)), least, alive/8)
}

// afterCollection sets the goal for the next collection, and comes again after
// that.
func afterCollection() {
	sample := []gc.Sample{{Name: "/gc/heap/live:bytes"}}
	gc.Read(sample)
	if alive := max(sample[0].Value.Uint64(), 1<<20); sample[0].Value.Kind() == gc.KindUint64 {
		debug.SetGCPercent(int(100 * garbageBeside(alive) / alive)) //nolint:gosec // at most 1200
	}
	sentinel := new([16]byte) // nobody holds it: it goes with the next collection
	runtime.AddCleanup(sentinel, func(struct{}) { afterCollection() }, struct{}{})
}

// cgroupLimit is the bytes of memory that the groups of this process may use,
// of the file system below root; math.MaxInt64 when there is no limit.
func cgroupLimit(root string) int64 {
	limit := int64(math.MaxInt64)
	read := func(name string) {
		text, err := os.ReadFile(path.Join(root, name))
		if err != nil {
			return
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	text, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return limit // not Linux
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case parts[0] == "0": // version 2
		case strings.Contains(","+parts[1]+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// A limit of a group holds for the groups within it. In a container the
		// path may be that of the host: then its root is what counts.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			read(path.Join(mount, group, file))
			if group == "/" {
				break
			}
		}
	}
	return limit
}
