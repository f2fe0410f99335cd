package power

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sector is the most that a disk writes as one.
const sector = 512

// A disk is what a trace says of the files of one directory tree: what is
// durable, and what is not yet. Nothing is durable but by a sync: data by one
// of the file, a name by one of the directory that it stands in.
type disk struct {
	root    string
	now     map[string]*node // by path: what a running process sees
	durable map[string]*node // by path: what a loss of power surely leaves
	names   []nameChange     // of directories, not synced yet, in order
	fds     map[int64]*handle
	syncs   map[string]syncing // by thread: what a sync that began covers
	out     strings.Builder    // what was written to standard output, an unfinished line
}

// A node is a file or a directory.
type node struct {
	dir     bool
	data    []byte // durable
	size    int64  // as a running process sees it
	pending []change
}

// A change is a write, or a new size.
type change struct {
	off  int64
	data []byte
	size int64 // with data nil: the new size
	lost bool  // a sync of it failed: the system believes it written, and never writes it again
}

// A nameChange is one change of a directory.
type nameChange struct {
	dir  string
	path string // gets to be node; nil: the name is removed
	node *node
	from string // is removed in the same moment, if not empty
}

type handle struct {
	node *node
	path string
	off  int64
}

type syncing struct {
	h       *handle
	changes int // of the file that it covers
	names   int // of all directories that had changed when it began
}

func newDisk(root string) *disk {
	root = filepath.Clean(root)
	d := &disk{root: root, now: map[string]*node{}, durable: map[string]*node{}, fds: map[int64]*handle{}, syncs: map[string]syncing{}}
	top := &node{dir: true}
	d.now[root], d.durable[root] = top, top
	return d
}

func (d *disk) holds(path string) bool {
	return path == d.root || strings.HasPrefix(path, d.root+"/")
}

// apply takes a call in, and returns the lines that it wrote to standard output.
func (d *disk) apply(c call) (lines []string, changed bool, err error) {
	switch c.name {
	case "openat":
		return nil, d.open(c), nil
	case "close":
		fd, err := c.int(0)
		delete(d.fds, fd)
		return nil, false, err
	case "write", "pwrite64":
		return d.write(c)
	case "ftruncate":
		return nil, true, d.truncate(c)
	case "fsync", "fdatasync":
		return nil, !c.begun, d.sync(c)
	case "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat":
		return nil, d.name(c), nil
	case "mmap":
		// Shared and writable, it would be a way to write that no trace shows.
		if fd, err := c.int(4); err == nil && d.fds[fd] != nil && strings.Contains(c.args[2], "PROT_WRITE") && strings.Contains(c.args[3], "MAP_SHARED") {
			return nil, false, fmt.Errorf("%s is mapped to be written", d.fds[fd].path)
		}
		return nil, false, nil
	default:
		for i := range c.args {
			if fd, err := strconv.ParseInt(c.args[i], 10, 64); err == nil && d.fds[fd] != nil && i < 2 {
				return nil, false, fmt.Errorf("%s on %s is not understood", c.name, d.fds[fd].path)
			}
			if d.holds(c.args[i]) {
				return nil, false, fmt.Errorf("%s on %s is not understood", c.name, c.args[i])
			}
		}
		return nil, false, nil
	}
}

func (d *disk) open(c call) (changed bool) {
	path := filepath.Clean(c.args[1])
	delete(d.fds, c.ret)
	if !d.holds(path) {
		return false
	}
	n := d.now[path]
	if n == nil {
		n = &node{}
		d.rename(nameChange{dir: filepath.Dir(path), path: path, node: n})
		changed = true
	}
	if strings.Contains(c.args[2], "O_TRUNC") && n.size > 0 {
		n.pending = append(n.pending, change{})
		n.size, changed = 0, true
	}
	d.fds[c.ret] = &handle{node: n, path: path}
	return changed
}

func (d *disk) write(c call) (lines []string, changed bool, err error) {
	fd, err := c.int(0)
	if err != nil {
		return nil, false, err
	}
	data := []byte(c.args[1])[:c.ret]
	h := d.fds[fd]
	switch {
	case fd == 1 && h == nil:
		d.out.Write(data)
		text := d.out.String()
		d.out.Reset()
		for {
			line, rest, ok := strings.Cut(text, "\n")
			if !ok {
				d.out.WriteString(text)
				return lines, false, nil
			}
			lines, text = append(lines, line), rest
		}
	case h == nil:
		return nil, false, nil
	}
	off := h.off
	if c.name == "pwrite64" {
		if off, err = c.int(3); err != nil {
			return nil, false, err
		}
	} else {
		h.off += c.ret
	}
	h.node.pending = append(h.node.pending, change{off: off, data: data})
	h.node.size = max(h.node.size, off+c.ret)
	return nil, true, nil
}

func (d *disk) truncate(c call) error {
	fd, err := c.int(0)
	if err != nil || d.fds[fd] == nil {
		return err
	}
	size, err := c.int(1)
	n := d.fds[fd].node
	n.pending = append(n.pending, change{size: size})
	n.size = size
	return err
}

func (d *disk) sync(c call) error {
	fd, err := c.int(0)
	if err != nil || d.fds[fd] == nil {
		return err
	}
	if c.begun {
		d.syncs[c.pid] = syncing{h: d.fds[fd], changes: len(d.fds[fd].node.pending), names: len(d.names)}
		return nil
	}
	s, ok := d.syncs[c.pid]
	if !ok {
		return fmt.Errorf("a sync of %s ended that had not begun", d.fds[fd].path)
	}
	delete(d.syncs, c.pid)
	n := s.h.node
	switch {
	case c.ret < 0:
		for i := range n.pending[:s.changes] {
			n.pending[i].lost = true
		}
		return nil
	case !n.dir:
		kept := slices.DeleteFunc(slices.Clone(n.pending[:s.changes]), func(ch change) bool { return ch.lost })
		n.data = render(n.data, kept, nil)
		n.pending = n.pending[s.changes:]
		return nil
	}
	var rest []nameChange
	for i, ch := range d.names {
		if i < s.names && ch.dir == s.h.path {
			ch.apply(d.durable)
		} else {
			rest = append(rest, ch)
		}
	}
	d.names = rest
	return nil
}

// paths are the arguments of a call that are absolute paths.
func (c call) paths() []string {
	var out []string
	for _, a := range c.args {
		if strings.HasPrefix(a, "/") {
			out = append(out, filepath.Clean(a))
		}
	}
	return out
}

func (d *disk) name(c call) (changed bool) {
	p := c.paths()
	if len(p) == 0 || !slices.ContainsFunc(p, d.holds) {
		return false
	}
	switch {
	case strings.HasPrefix(c.name, "mkdir"):
		d.rename(nameChange{dir: filepath.Dir(p[0]), path: p[0], node: &node{dir: true}})
	case strings.HasPrefix(c.name, "unlink"):
		d.rename(nameChange{dir: filepath.Dir(p[0]), path: p[0]})
	case filepath.Dir(p[0]) != filepath.Dir(p[1]):
		// Two directories: the name appears in one and goes from the other,
		// each when that one is synced.
		d.rename(nameChange{dir: filepath.Dir(p[1]), path: p[1], node: d.now[p[0]]})
		if strings.HasPrefix(c.name, "rename") {
			d.rename(nameChange{dir: filepath.Dir(p[0]), path: p[0]})
		}
	case strings.HasPrefix(c.name, "link"):
		d.rename(nameChange{dir: filepath.Dir(p[1]), path: p[1], node: d.now[p[0]]})
	default:
		d.rename(nameChange{dir: filepath.Dir(p[1]), path: p[1], node: d.now[p[0]], from: p[0]})
	}
	return true
}

func (d *disk) rename(ch nameChange) {
	ch.apply(d.now)
	d.names = append(d.names, ch)
}

func (ch nameChange) apply(names map[string]*node) {
	if ch.from != "" {
		delete(names, ch.from)
	}
	if ch.node == nil {
		delete(names, ch.path)
	} else {
		names[ch.path] = ch.node
	}
}

// A fate says which of the changes that are not durable reached the disk.
type fate func(i, n int) bool // the i-th of n

// render returns what becomes of a file when some of the sectors of its pending
// changes reached the disk: all of them where f is nil.
func render(durable []byte, pending []change, f fate) []byte {
	n := 0
	for _, ch := range pending {
		n += ch.sectors()
	}
	out := slices.Clone(durable)
	i := 0
	for _, ch := range pending {
		if ch.data == nil {
			if f == nil || f(i, n) {
				out = resize(out, ch.size)
			}
			i++
			continue
		}
		for at := ch.off; at < ch.off+int64(len(ch.data)); i++ {
			end := min((at/sector+1)*sector, ch.off+int64(len(ch.data)))
			if f == nil || f(i, n) {
				if int64(len(out)) < end {
					out = resize(out, end)
				}
				copy(out[at:end], ch.data[at-ch.off:end-ch.off])
			}
			at = end
		}
	}
	return out
}

func (c change) sectors() int {
	if c.data == nil {
		return 1
	}
	return int((c.off+int64(len(c.data))-1)/sector - c.off/sector + 1)
}

func resize(b []byte, size int64) []byte {
	if int64(len(b)) >= size {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// An image is what a loss of power left: contents by path relative to the root;
// a directory ends in a slash.
type image map[string][]byte

// image draws what a loss of power in this moment may leave.
func (d *disk) image(random *rand.Rand) image {
	names := maps.Clone(d.durable)
	pick := drawFate(random)
	for i, ch := range d.names {
		_, there := names[ch.from]
		if pick(i, len(d.names)) && (ch.from == "" || there) {
			ch.apply(names)
		}
	}
	out := image{}
	contents := map[*node][]byte{}
	for path, n := range names {
		if !d.reachable(names, path) || path == d.root {
			continue
		}
		rel := strings.TrimPrefix(path, d.root+"/")
		if n.dir {
			out[rel+"/"] = nil
			continue
		}
		if _, ok := contents[n]; !ok {
			contents[n] = render(n.data, n.pending, drawFate(random))
		}
		out[rel] = contents[n]
	}
	return out
}

func (d *disk) reachable(names map[string]*node, path string) bool {
	for path != d.root {
		path = filepath.Dir(path)
		if n := names[path]; n == nil || !n.dir {
			return false
		}
	}
	return true
}

// drawFate draws how a disk treats what was not synced.
func drawFate(random *rand.Rand) fate {
	seed, one := random.Uint64(), random.Float64()
	each := rand.New(rand.NewPCG(seed, 1))
	switch random.IntN(7) {
	case 0:
		return func(int, int) bool { return false }
	case 1:
		return func(int, int) bool { return true }
	case 2: // all but one
		return func(i, n int) bool { return i != int(one*float64(n)) }
	case 3: // only one
		return func(i, n int) bool { return i == int(one*float64(n)) }
	case 4: // the first ones
		return func(i, n int) bool { return i < int(one*float64(n+1)) }
	case 5: // the last ones
		return func(i, n int) bool { return i >= int(one*float64(n)) }
	default:
		return func(int, int) bool { return each.Float64() < one }
	}
}
