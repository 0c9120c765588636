package wishes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Place is a group on an interface.
type Place struct {
	Interface int // index
	Group     netip.Addr
}

// SourceCount is how many sockets name a source of a group.
type SourceCount struct{ Include, Exclude int }

// Counts is what the kernel counts of a group on an interface.
type Counts struct {
	Sockets int // that hold the group, with sources or without
	Sources map[netip.Addr]SourceCount
}

// Snapshot is what the kernel counts of all groups of this host.
type Snapshot struct {
	Names  map[int]string // of the interfaces that hold groups, by index
	Groups map[Place]Counts
	// Marked tells that the sources are all there: see [Marker]. Without it, a
	// group may have sources that do not show.
	Marked bool
}

// ErrFormat is a file of the kernel's that does not look as it should.
var ErrFormat = errors.New("wishes: unexpected format")

// The kernel's files. Both are of the network namespace of the process.
const (
	fileGroups  = "/proc/net/igmp"
	fileSources = "/proc/net/mcfilter"
)

// attempts bounds how often Read looks until it saw the same twice.
const attempts = 5

// Reader reads the kernel's counts. The zero value reads this host's.
type Reader struct {
	// ReadFile reads a file; nil: os.ReadFile.
	ReadFile func(name string) ([]byte, error)
	// Marker makes sources show; nil: nothing does.
	Marker *Marker
}

// Read takes a snapshot. The kernel gives its files page by page, and a socket that
// comes or goes meanwhile can make it skip or repeat a line; so a snapshot is settled
// only when two in a row are equal. One that is not may lack what is there.
func (r Reader) Read() (s Snapshot, settled bool, err error) {
	for i := range attempts {
		next, err := r.once()
		if err != nil {
			return Snapshot{}, false, err
		}
		if i > 0 && next.equal(s) {
			return next, true, nil
		}
		s = next
		if i == 0 && !s.Marked && r.Marker != nil {
			// Without it more is taken for a wish of any source; no reason to fail.
			_ = r.Marker.renew()
		}
	}
	return s, false, nil
}

// once reads sockets before sources: a socket that comes in between shows as its
// source alone, and not as one that wants any.
func (r Reader) once() (Snapshot, error) {
	read := r.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	groups, err := read(fileGroups)
	if err != nil {
		return Snapshot{}, fmt.Errorf("wishes: %w", err)
	}
	sources, err := read(fileSources)
	if err != nil {
		return Snapshot{}, fmt.Errorf("wishes: %w", err)
	}
	return Parse(groups, sources)
}

// Parse reads the texts of /proc/net/igmp and /proc/net/mcfilter. The error wraps
// ErrFormat and quotes the line.
func Parse(groups, sources []byte) (Snapshot, error) {
	s := Snapshot{Names: map[int]string{}, Groups: map[Place]Counts{}}
	if err := s.parseGroups(groups); err != nil {
		return Snapshot{}, err
	}
	if err := s.parseSources(sources); err != nil {
		return Snapshot{}, err
	}
	return s, nil
}

// parseGroups reads lines of interfaces, and behind each one, indented, of its
// groups:
//
//	Idx	Device    : Count Querier	Group    Users Timer	Reporter
//	4	eth0      :     1      V3
//					010000E0     1 0:00000000		0
//
// A group is a number in the host's byte order as it lies in memory.
func (s *Snapshot) parseGroups(text []byte) error {
	index, first := 0, false
	for line := range body(text) {
		fields := strings.Fields(line)
		if line[0] != '\t' {
			device, _, found := strings.Cut(line, ":")
			head := strings.Fields(device)
			if !found || len(head) != 2 {
				return malformed(fileGroups, line)
			}
			var err error
			if index, err = strconv.Atoi(head[0]); err != nil || index <= 0 {
				return malformed(fileGroups, line)
			}
			s.Names[index], first = head[1], true
			continue
		}
		if len(fields) < 2 || index == 0 {
			return malformed(fileGroups, line)
		}
		number, err := strconv.ParseUint(fields[0], 16, 32)
		users, err2 := strconv.Atoi(fields[1])
		if err != nil || err2 != nil || users < 0 {
			return malformed(fileGroups, line)
		}
		var octets [4]byte
		binary.NativeEndian.PutUint32(octets[:], uint32(number))
		group := netip.AddrFrom4(octets)
		s.Groups[Place{index, group}] = Counts{Sockets: users}
		s.Marked = s.Marked || first && group == markerGroup && s.Names[index] == loopback
		first = false
	}
	return nil
}

// parseSources reads lines of interface, name (cut to six letters), group, source,
// and how many sockets include and exclude it:
//
//	Idx Device        MCA        SRC    INC    EXC
//	  7 usher0 0xe8010203 0xc0000207      1      0
func (s *Snapshot) parseSources(text []byte) error {
	for line := range body(text) {
		fields := strings.Fields(line)
		if len(fields) != 6 {
			return malformed(fileSources, line)
		}
		index, err := strconv.Atoi(fields[0])
		group, ok := address(fields[2])
		source, ok2 := address(fields[3])
		include, err2 := strconv.Atoi(fields[4])
		exclude, err3 := strconv.Atoi(fields[5])
		if errors.Join(err, err2, err3) != nil || !ok || !ok2 || index <= 0 || include < 0 || exclude < 0 {
			return malformed(fileSources, line)
		}
		at := Place{index, group}
		c := s.Groups[at]
		if c.Sources == nil {
			c.Sources = map[netip.Addr]SourceCount{}
		}
		c.Sources[source] = SourceCount{include, exclude}
		s.Groups[at] = c
	}
	return nil
}

// body yields the lines behind the first one, which is a title.
func body(text []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		title := true
		for line := range bytes.Lines(text) {
			line = bytes.TrimRight(line, "\n")
			if title || len(bytes.TrimSpace(line)) == 0 {
				title = false
				continue
			}
			if !yield(string(line)) {
				return
			}
		}
	}
}

// address reads 0x and eight digits.
func address(text string) (netip.Addr, bool) {
	digits, found := strings.CutPrefix(text, "0x")
	number, err := strconv.ParseUint(digits, 16, 32)
	var octets [4]byte
	binary.BigEndian.PutUint32(octets[:], uint32(number))
	return netip.AddrFrom4(octets), found && err == nil
}

func malformed(file, line string) error { return fmt.Errorf("%w: %s: %q", ErrFormat, file, line) }

func (s Snapshot) equal(o Snapshot) bool {
	return s.Marked == o.Marked && maps.Equal(s.Names, o.Names) && maps.EqualFunc(s.Groups, o.Groups, func(a, b Counts) bool {
		return a.Sockets == b.Sockets && maps.Equal(a.Sources, b.Sources)
	})
}
