package power

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// syscalls are what a trace must hold: everything that changes a file, a
// directory or what is durable of them.
const syscalls = "openat,close,write,pwrite64,writev,pwritev,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,sync,syncfs," +
	"msync,mmap,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlinkat,copy_file_range,sendfile,splice,dup,dup2,dup3,lseek"

// A call is one system call of a trace.
type call struct {
	name  string
	args  []string // strings unescaped
	ret   int64
	begun bool // a sync that has begun: what is written later is not part of it
	pid   string
}

// parse reads what strace -f -xx wrote and calls f with each call in order: a
// sync both where it begins and where it ends, the rest where it ends. Calls
// that failed are left out, but for syncs.
func parse(r io.Reader, f func(call) error) error {
	in := bufio.NewReaderSize(r, 1<<20)
	unfinished := map[string]string{}
	for {
		line, err := in.ReadBytes('\n')
		if len(line) == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		pid, text, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		text = strings.TrimLeft(text, " ")
		if !ok || strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") {
			continue
		}
		if before, ok := strings.CutSuffix(text, "<unfinished ...>"); ok {
			unfinished[pid] = before
			name, _, _ := strings.Cut(before, "(")
			switch name {
			case "fsync", "fdatasync":
				fd, _, _ := strings.Cut(before[len(name)+1:], ")")
				if err := f(call{name: name, args: []string{strings.TrimSpace(fd)}, begun: true, pid: pid}); err != nil {
					return err
				}
			}
			continue
		}
		resumed := false
		if strings.HasPrefix(text, "<... ") {
			_, rest, _ := strings.Cut(text, " resumed>")
			text = unfinished[pid] + rest
			delete(unfinished, pid)
			resumed = true
		}
		c, err := parseCall(text)
		if err != nil {
			return fmt.Errorf("trace: %w: %.200s", err, text)
		}
		c.pid = pid
		sync := c.name == "fsync" || c.name == "fdatasync"
		if c.ret < 0 && !sync {
			continue
		}
		if sync && !resumed {
			begun := c
			begun.begun = true
			if err := f(begun); err != nil {
				return err
			}
		}
		if err := f(c); err != nil {
			return err
		}
	}
}

// parseCall reads name(args) = ret.
func parseCall(text string) (call, error) {
	open := strings.IndexByte(text, '(')
	equals := strings.LastIndex(text, " = ")
	if open < 0 || equals < 0 {
		return call{}, errors.New("no system call")
	}
	c := call{name: text[:open]}
	ret, _, _ := strings.Cut(text[equals+3:], " ")
	var err error
	if c.ret, err = strconv.ParseInt(ret, 0, 64); err != nil && ret != "?" {
		return call{}, err
	}
	args := strings.TrimSuffix(strings.TrimSpace(text[open+1:equals]), ")")
	for len(args) > 0 {
		if args[0] != '"' {
			arg, rest, _ := strings.Cut(args, ",")
			c.args = append(c.args, strings.TrimSpace(arg))
			args = strings.TrimLeft(rest, " ")
			continue
		}
		end := strings.IndexByte(args[1:], '"')
		if end < 0 {
			return call{}, errors.New("a string without an end")
		}
		s, err := unhex(args[1 : 1+end])
		if err != nil {
			return call{}, err
		}
		c.args = append(c.args, s)
		rest := args[end+2:]
		if strings.HasPrefix(rest, "...") {
			return call{}, errors.New("a string that was cut")
		}
		args = strings.TrimLeft(strings.TrimPrefix(rest, ","), " ")
	}
	return c, nil
}

// unhex reads \x61\x62.
func unhex(s string) (string, error) {
	var out bytes.Buffer
	out.Grow(len(s) / 4)
	for i := 0; i < len(s); i += 4 {
		if i+4 > len(s) || s[i] != '\\' || s[i+1] != 'x' {
			return "", errors.New("no string of hex digits")
		}
		b, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
		if err != nil {
			return "", err
		}
		out.WriteByte(byte(b))
	}
	return out.String(), nil
}

func (c call) int(i int) (int64, error) {
	if i >= len(c.args) {
		return 0, fmt.Errorf("%s has no argument %d", c.name, i)
	}
	return strconv.ParseInt(c.args[i], 0, 64)
}
