package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/cwprelay/cwprelay/journal"
)

// Options say where the configuration comes from. Flags win over the
// environment, the environment over the file, the file over the defaults.
type Options struct {
	Path    string            // of the file; empty: none
	Text    []byte            // of the file, where it was read before; nil: it is read
	Environ []string          // NAME=value
	Flags   map[string]string // by path: "log.level"
}

// envPrefix begins the variables that set options; two underscores separate
// the parts of a path: CWPRELAY_SINKS__SOC__SPLUNK_HEC__TOKEN.
const envPrefix = "CWPRELAY_"

// envConfig names the file, for the command line. It is no option.
const envConfig = "CWPRELAY_CONFIG"

// A place is where a value came from.
type place struct {
	text string // "cwprelay.yaml:12", "CWPRELAY_LOG__LEVEL", "--log-level"
	line int
	refs []string // what ${…} of the file took the value from: "$TOKEN", "/run/token"
}

// A loader collects values and mistakes.
type loader struct {
	values map[string]any   // by path
	places map[string]place // by path; of blocks too
	errs   []located
	env    map[string]string
	path   string
	text   []byte
	files  []string        // that were read
	failed map[string]bool // paths whose value could not be made; their mistake is told

	endless bool // the file has more than can be meant; told
}

type located struct {
	place place
	text  string
}

// Load reads the configuration. Its error names every mistake, a line each.
func Load(opt Options) (*Config, error) {
	cfg, _, err := load(opt)
	return cfg, err
}

// StateDir is the state directory that a configuration names, whatever else is
// wrong with it; empty: it cannot be told.
func StateDir(opt Options) string {
	l := newLoader(opt)
	if l.read(opt) != nil || l.failed["state.dir"] {
		return ""
	}
	dir, ok := l.values["state.dir"].(string)
	if !ok {
		return journal.Config{}.WithDefaults().Dir
	}
	return dir
}

// load also returns where each value came from, by path.
func load(opt Options) (*Config, map[string]place, error) {
	l := newLoader(opt)
	if err := l.read(opt); err != nil {
		return nil, nil, err
	}
	l.unknown(reflect.TypeFor[Config](), "")
	cfg, ok := l.decode()
	if ok {
		full := cfg.withDefaults()
		full.File, full.Text, full.SecretFiles = opt.Path, l.text, l.files
		for _, m := range full.validate() {
			if l.failed[l.pathOf(m)] {
				continue
			}
			l.fail(l.near(m), "%s", join(m.path, m.err.Error()))
		}
		cfg = &full
	}
	if len(l.errs) > 0 {
		return nil, nil, l.err()
	}
	return cfg, l.places, nil
}

func newLoader(opt Options) *loader {
	l := &loader{values: map[string]any{}, places: map[string]place{}, env: map[string]string{}, path: opt.Path, text: opt.Text, failed: map[string]bool{}}
	for _, kv := range opt.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			l.env[name] = value
		}
	}
	return l
}

// read takes all values. Its error is a file that cannot be read at all.
func (l *loader) read(opt Options) error {
	if opt.Path != "" {
		if err := l.readFile(opt.Path); err != nil {
			return err
		}
	}
	l.readEnv()
	for _, path := range slices.Sorted(mapKeys(opt.Flags)) {
		l.set(path, opt.Flags[path], place{text: "--" + strings.ReplaceAll(path, ".", "-")})
	}
	return nil
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func join(path, text string) string {
	if path == "" {
		return text
	}
	// A message begins with the key relative to its block, or has none.
	if key, _, ok := strings.Cut(text, ":"); ok && !strings.ContainsAny(key, " \"") {
		return path + "." + text
	}
	return path + ": " + text
}

func (l *loader) fail(p place, format string, args ...any) {
	l.errs = append(l.errs, located{p, fmt.Sprintf(format, args...)})
}

// err is all mistakes, in order of their lines.
func (l *loader) err() error {
	slices.SortStableFunc(l.errs, func(a, b located) int { return cmp.Compare(a.place.line, b.place.line) })
	var errs []error
	seen := map[string]bool{}
	for _, e := range l.errs {
		text := e.text
		if e.place.text != "" {
			text = e.place.text + ": " + text
		}
		if !seen[text] {
			errs = append(errs, errors.New(text))
		}
		seen[text] = true
	}
	return errors.Join(errs...)
}

// pathOf is the path of the key that a mistake is about.
func (*loader) pathOf(m mistake) string {
	if key, _, ok := strings.Cut(m.err.Error(), ":"); ok && !strings.ContainsAny(key, " \"") {
		return strings.TrimPrefix(m.path+"."+key, ".")
	}
	return m.path
}

// near is the place of the longest known path that a mistake is about.
func (l *loader) near(m mistake) place {
	path := l.pathOf(m)
	for path != "" {
		if p, ok := l.places[path]; ok {
			return p
		}
		path, _ = cutLast(path)
	}
	return place{text: l.path}
}

func cutLast(path string) (before, after string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func (l *loader) set(path string, value any, p place) {
	// A value in place of a block (stdout: with nothing) is one, until something
	// of the block is set elsewhere.
	l.values[path] = value
	for above, _ := cutLast(path); above != ""; above, _ = cutLast(above) {
		if v, ok := l.values[above]; ok && v == nil {
			delete(l.values, above)
		}
	}
	l.places[path] = p
}

// readEnv takes the variables that set options. Names match without regard to
// case, those of sources and sinks that the file has first.
func (l *loader) readEnv() {
	for _, name := range slices.Sorted(mapKeys(l.env)) {
		if !strings.HasPrefix(name, envPrefix) || name == envConfig {
			continue
		}
		if strings.ContainsAny(name, ".[]") {
			l.fail(place{text: name}, "names no option: lists of blocks are written in the configuration file")
			continue
		}
		parts := strings.Split(strings.TrimPrefix(name, envPrefix), "__")
		l.set(l.match(parts), l.env[name], place{text: name})
	}
}

// match finds the path that the parts of a variable's name mean.
func (l *loader) match(parts []string) string {
	path := ""
	t := reflect.TypeFor[Config]()
	for _, part := range parts {
		name := strings.ToLower(part)
		if t != nil && t.Kind() == reflect.Map {
			for known := range l.places {
				if before, after := cutLast(known); before == path && strings.EqualFold(strings.ReplaceAll(after, "-", "_"), strings.ReplaceAll(part, "-", "_")) {
					name = after
				}
			}
			t = elem(t.Elem())
		} else if t != nil {
			t = fieldType(t, name)
		}
		path = strings.TrimPrefix(path+"."+name, ".")
	}
	return path
}

func elem(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// fields are the options of a struct, those of squashed ones included.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		tag := f.Tag.Get("koanf")
		switch {
		case strings.Contains(tag, ",squash"):
			maps.Copy(out, fields(elem(f.Type)))
		case tag != "":
			out[tag] = elem(f.Type)
		}
	}
	return out
}

func fieldType(t reflect.Type, name string) reflect.Type {
	if !isBlock(t) {
		return nil
	}
	if list, _, ok := splitIndex(name); ok {
		if t := fields(t)[list]; isBlockList(t) {
			return t.Elem()
		}
		return nil
	}
	return fields(t)[name]
}

// isBlockList reports whether a type is a list of blocks.
func isBlockList(t reflect.Type) bool {
	return t != nil && t.Kind() == reflect.Slice && isBlock(t.Elem())
}

// splitIndex splits the name of an element of a list: "severity[2]".
func splitIndex(part string) (list string, index int, ok bool) {
	list, number, ok := strings.Cut(strings.TrimSuffix(part, "]"), "[")
	index, err := strconv.Atoi(number)
	return list, index, ok && err == nil
}

// gather makes lists of the blocks that stand beside each other by their
// numbers, and returns v.
func gather(v map[string]any) map[string]any {
	lists := map[string][]any{}
	for _, name := range slices.Sorted(mapKeys(v)) {
		inner, ok := v[name].(map[string]any)
		if !ok {
			continue
		}
		gather(inner)
		if list, index, ok := splitIndex(name); ok {
			for len(lists[list]) <= index { // a block that was wrong leaves an empty one
				lists[list] = append(lists[list], map[string]any{})
			}
			lists[list][index] = inner
			delete(v, name)
		}
	}
	for name, list := range lists {
		v[name] = list
	}
	return v
}

// isBlock reports whether a type is a block of options, not a value.
func isBlock(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	return !reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]())
}

// unknown reports the keys that no option has.
func (l *loader) unknown(t reflect.Type, path string) {
	under := map[string]bool{}
	for key := range l.places {
		if path == "" || strings.HasPrefix(key, path+".") {
			rest := strings.TrimPrefix(strings.TrimPrefix(key, path), ".")
			first, _, _ := strings.Cut(rest, ".")
			if first != "" {
				under[first] = true
			}
		}
	}
	for _, name := range slices.Sorted(mapKeys(under)) {
		full := strings.TrimPrefix(path+"."+name, ".")
		var next reflect.Type
		switch {
		case t.Kind() == reflect.Map:
			next = elem(t.Elem())
		default:
			next = fieldType(t, name)
		}
		if next == nil {
			l.unknownKey(full, name, t)
			continue
		}
		if isBlock(next) || next.Kind() == reflect.Map {
			l.unknown(next, full)
			continue
		}
		for key, at := range l.places {
			if strings.HasPrefix(key, full+".") {
				l.fail(at, "%s: unknown key: %s is a value, not a block of options", key, full)
			}
		}
	}
}

func (l *loader) unknownKey(full, name string, t reflect.Type) {
	hint := ""
	if best := closest(name, fields(t)); best != "" {
		hint = "; did you mean " + best + "?"
	}
	var p place
	found := false
	for key, at := range l.places {
		if key == full || strings.HasPrefix(key, full+".") && !found {
			p, found = at, true
			if key == full {
				break
			}
		}
	}
	l.fail(p, "%s: unknown key%s", full, hint)
	for key := range l.values {
		if key == full || strings.HasPrefix(key, full+".") {
			delete(l.values, key)
		}
	}
}

// closest is the known name that a wrong one is most like, "" if none is.
func closest(name string, known map[string]reflect.Type) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range slices.Sorted(mapKeys(known)) {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to change, add or drop.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// decode makes a Config of the values. A value of the wrong type is a mistake
// of its own; the others are decoded all the same.
func (l *loader) decode() (*Config, bool) {
	ok := true
	good := map[string]any{}
	for _, path := range slices.Sorted(mapKeys(l.values)) {
		t := l.typeOf(path)
		if t == nil {
			continue // unknown, reported
		}
		if l.failed[path] {
			if reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()) || t.Kind() == reflect.String {
				good[path] = "" // its block is there, whatever it lacks
			}
			continue
		}
		value, err := convert(l.values[path], t)
		if err != nil {
			l.fail(l.places[path], "%s: %s", path, err)
			ok = false
			continue
		}
		good[path] = value
	}
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(good, "."), nil); err != nil {
		l.fail(place{text: l.path}, "%v", err)
		return nil, false
	}
	good = gather(k.Raw())
	k = koanf.New(".")
	if err := k.Load(confmap.Provider(good, ""), nil); err != nil {
		l.fail(place{text: l.path}, "%v", err)
		return nil, false
	}
	cfg := &Config{}
	err := k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{
		Tag: "koanf",
		DecoderConfig: &mapstructure.DecoderConfig{
			Result: cfg, TagName: "koanf", ErrorUnused: true,
			DecodeHook: mapstructure.TextUnmarshallerHookFunc(),
		},
	})
	if err != nil {
		l.fail(place{text: l.path}, "%v", err)
		return nil, false
	}
	return cfg, ok || len(cfg.Sources)+len(cfg.Sinks) > 0
}

// typeOf is the type of the option at a path; nil when there is none.
func (l *loader) typeOf(path string) reflect.Type {
	t := reflect.TypeFor[Config]()
	for part := range strings.SplitSeq(path, ".") {
		switch {
		case t == nil:
			return nil
		case t.Kind() == reflect.Map:
			t = elem(t.Elem())
		default:
			t = fieldType(t, part)
		}
	}
	return t
}

// convert brings a scalar or list to the type of its option. Its errors never
// show the value: it may be a secret in the wrong place.
func convert(value any, t reflect.Type) (any, error) {
	text, isText := value.(string)
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ UnmarshalText([]byte) error }]()):
		switch v := value.(type) {
		case []string:
			if t.Kind() == reflect.Slice {
				return v, nil
			}
			return nil, errors.New("must be one text, not a list")
		case string:
			return v, nil
		}
		return nil, errors.New("must be a text")
	case isBlock(t) || t.Kind() == reflect.Map:
		if value == nil || isText && strings.TrimSpace(text) == "" || isText && text == "{}" {
			return map[string]any{}, nil
		}
		return nil, errors.New("must be a block of options, not a value")
	case isBlockList(t):
		if list, ok := value.([]string); ok && len(list) == 0 {
			return list, nil
		}
		return nil, errors.New("must be a list of blocks; write it in the configuration file")
	case t.Kind() == reflect.Slice:
		if list, ok := value.([]string); ok {
			return list, nil
		}
		if isText {
			return []string{text}, nil
		}
	}
	if _, ok := value.([]string); ok {
		return nil, errors.New("must be one value, not a list")
	}
	if !isText {
		return nil, errors.New("has no value; remove the key or give one")
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, errors.New("must be a duration such as 15s, 5m or 24h")
		}
		return d, nil
	case t.Kind() == reflect.Int64:
		return parseBytes(text)
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, errors.New("must be true or false")
		}
		return b, nil
	case t.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, errors.New("must be a whole number")
		}
		return n, nil
	case t.Kind() == reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, errors.New("must be a number")
		}
		return f, nil
	case t.Kind() == reflect.String:
		return text, nil
	default:
		return nil, fmt.Errorf("cannot be set: options of type %s are not read", t)
	}
}

// parseBytes reads a size: a number of bytes, or one with KiB, MiB, GiB, KB ….
func parseBytes(text string) (int64, error) {
	units := []struct {
		name string
		size float64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
		{"KB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"B", 1},
	}
	number, size := strings.TrimSpace(text), 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(strings.ToLower(number), strings.ToLower(u.name)); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*size <= 1<<62) { // NaN is neither
		return 0, errors.New("must be a size such as 512MiB or 8GiB")
	}
	return int64(n * size), nil
}

// readText reads a file named by ${file:…}.
func readText(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		if p, ok := errors.AsType[*os.PathError](err); ok {
			err = p.Err
		}
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
}
