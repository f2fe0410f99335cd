package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestCgroupLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"none": {nil, math.MaxInt64},
		"of the group": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/cwprelay.service\n",
			"sys/fs/cgroup/system.slice/cwprelay.service/memory.max": "268435456\n",
		}, 268435456},
		"of a group around it": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/cwprelay.service\n",
			"sys/fs/cgroup/system.slice/cwprelay.service/memory.max": "max\n",
			"sys/fs/cgroup/system.slice/memory.max":                  "1000000\n",
		}, 1000000},
		"of a container": {map[string]string{
			"proc/self/cgroup":         "0::/kubepods/pod1/abc\n",
			"sys/fs/cgroup/memory.max": "134217728\n",
		}, 134217728},
		"version 1": {map[string]string{
			"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "67108864\n",
		}, 67108864},
		"version 1 without a limit": {map[string]string{
			"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 9223372036854771712},
		"damaged": {map[string]string{"proc/self/cgroup": "x\n0::/\n", "sys/fs/cgroup/memory.max": "many\n"}, math.MaxInt64},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range tc.files {
				at := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := cgroupLimit(root); got != tc.want {
				t.Errorf("limit %d, want %d", got, tc.want)
			}
		})
	}
}

func TestGarbageIsBounded(t *testing.T) {
	const mib = 1 << 20
	for alive, most := range map[uint64]uint64{0: 16 * mib, 4 * mib: 16 * mib, 16 * mib: 48 * mib, 32 * mib: 60 * mib, 48 * mib: 60 * mib, 60 * mib: 72 * mib, 380 * mib: 430 * mib} {
		if got := alive + garbageBeside(alive); got > most {
			t.Errorf("%d MiB alive grow to %d, want at most %d", alive/mib, got/mib, most/mib)
		}
	}
}

func TestMemoryIsGivenBackWhenIdle(t *testing.T) {
	const mib = 1 << 20
	for name, tc := range map[string]struct {
		allocated, unneeded uint64
		want                bool
	}{
		"in a sweep":      {40 * mib, 30 * mib, false},
		"after a sweep":   {mib, 15 * mib, true},
		"it is done":      {mib, 2 * mib, false},
		"a head scan ran": {mib * 3 / 2, 7 * mib, true},
	} {
		if got := worthGivingBack(tc.allocated, tc.unneeded); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
