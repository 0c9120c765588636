package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// groupsPerSocket is the kernel's default of net.ipv4.igmp_max_memberships.
const groupsPerSocket = 20

// Membership is one (source, group) on one interface.
type Membership struct {
	Group     netip.Addr // IPv4 multicast
	Source    netip.Addr // invalid: any source
	Interface int        // index
}

// String is "(S,G) on interface N".
func (m Membership) String() string {
	source := "*"
	if m.Source.IsValid() {
		source = m.Source.String()
	}
	return fmt.Sprintf("(%s,%s) on interface %d", source, m.Group, m.Interface)
}

// validate refuses what can be no membership.
func (m Membership) validate() error {
	if m.Group.Is6() || m.Source.Is6() {
		return fmt.Errorf("%w: membership %v", ErrFamily, m)
	}
	if !m.Group.IsMulticast() {
		return fmt.Errorf("%w: %v", ErrNotMulticast, m.Group)
	}
	if m.Interface <= 0 {
		return fmt.Errorf("%w: membership %v names none", ErrNoInterface, m)
	}
	return nil
}

// Memberships holds multicast memberships, on sockets of their own that
// receive nothing: package doc. Each lasts as long as it is wanted, and the
// kernel answers the network's queries meanwhile (pitfalls: a membership that
// is renewed by leaving and joining loses packets each time). All methods are
// safe for any goroutine. The zero value is empty and usable.
type Memberships struct {
	mu      sync.Mutex
	sockets []*memberSocket // guarded by mu
}

// memberSocket is one socket and what it holds.
type memberSocket struct {
	fd   int
	held []Membership
}

// NewMemberships makes an empty set.
func NewMemberships() *Memberships { return &Memberships{} }

// Join adds a membership of group on the interface with that index: of one
// source, or of any where source is invalid. It does nothing if the membership
// is there. A Join that fails leaves nothing behind. Errors wrap
// ErrNoInterface, ErrTooManyGroups, ErrNotMulticast or ErrFamily.
func (m *Memberships) Join(group, source netip.Addr, index int) error {
	want := Membership{Group: group.Unmap(), Source: source.Unmap(), Interface: index}
	if err := want.validate(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.join(want)
}

// Leave ends a membership, also on an interface that is gone. It does nothing
// if there is none.
func (m *Memberships) Leave(group, source netip.Addr, index int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leave(Membership{Group: group.Unmap(), Source: source.Unmap(), Interface: index})
}

// Set makes want the whole of what is held: it joins what is missing first,
// and leaves what is no longer wanted afterwards. What is both held and wanted
// is not touched. One that fails does not stop the others; the errors are
// joined.
func (m *Memberships) Set(want []Membership) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	keep := make(map[Membership]bool, len(want))
	for _, w := range want {
		w.Group, w.Source = w.Group.Unmap(), w.Source.Unmap()
		keep[w] = true
		if err := w.validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := m.join(w); err != nil {
			errs = append(errs, err)
		}
	}
	for _, held := range m.list() {
		if !keep[held] {
			if err := m.leave(held); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// List is what is held, oldest first within a socket.
func (m *Memberships) List() []Membership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.list()
}

// Sockets counts the sockets that hold each group, by group and interface alone:
// the keys have no source. The kernel counts users of a group the same way, which
// is how one tells its own from those of others.
func (m *Memberships) Sockets() map[Membership]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[Membership]int{}
	for _, s := range m.sockets {
		groups := map[Membership]bool{}
		for _, h := range s.held {
			groups[Membership{Group: h.Group, Interface: h.Interface}] = true
		}
		for g := range groups {
			all[g]++
		}
	}
	return all
}

// Close leaves everything. The set can be used again.
func (m *Memberships) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, s := range m.sockets {
		errs = append(errs, unix.Close(s.fd))
	}
	m.sockets = nil
	return errors.Join(errs...)
}

// list needs mu.
func (m *Memberships) list() []Membership {
	var all []Membership
	for _, s := range m.sockets {
		all = append(all, s.held...)
	}
	return all
}

// join needs mu.
func (m *Memberships) join(want Membership) error {
	for _, s := range m.sockets {
		if slices.Contains(s.held, want) {
			return nil
		}
	}
	for _, s := range m.sockets {
		if len(s.held) >= groupsPerSocket || s.conflicts(want) {
			continue
		}
		err := s.change(want, true)
		if errors.Is(err, unix.ENOBUFS) {
			continue // the limit on this host is lower, or one on sources
		}
		if err != nil {
			return joinError(want, err)
		}
		s.held = append(s.held, want)
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("underlay: socket for memberships: %w", err)
	}
	s := &memberSocket{fd: fd}
	if err := s.change(want, true); err != nil {
		return errors.Join(joinError(want, err), unix.Close(fd))
	}
	s.held = append(s.held, want)
	m.sockets = append(m.sockets, s)
	return nil
}

// leave needs mu.
func (m *Memberships) leave(gone Membership) error {
	for i, s := range m.sockets {
		at := slices.Index(s.held, gone)
		if at < 0 {
			continue
		}
		s.held = slices.Delete(s.held, at, at+1)
		if len(s.held) == 0 {
			m.sockets = slices.Delete(m.sockets, i, i+1)
			return unix.Close(s.fd)
		}
		err := s.change(gone, false)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) {
			// The interface is gone, and the kernel's membership with it. The
			// socket's entry is not, and would fill one of its places: a
			// leave of the whole group works without the interface. The
			// group's other sources there are gone alike.
			err = s.changeGroup(unix.MCAST_LEAVE_GROUP, gone)
			if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("underlay: leave %v: %w", gone, err)
		}
		return nil
	}
	return nil
}

// conflicts tells whether the socket holds the same group there in the other
// way: the kernel takes either sources or any source.
func (s *memberSocket) conflicts(want Membership) bool {
	return slices.ContainsFunc(s.held, func(h Membership) bool {
		return h.Group == want.Group && h.Interface == want.Interface && h.Source.IsValid() != want.Source.IsValid()
	})
}

// Sizes of struct group_req and struct group_source_req (RFC 3678 §5.1, with
// the padding that a 64-bit kernel has): an index, then one or two
// sockaddr_storage.
const (
	storageAt   = 8
	storageSize = 128
)

// change joins or leaves a membership.
func (s *memberSocket) change(m Membership, join bool) error {
	if !m.Source.IsValid() {
		if join {
			return s.changeGroup(unix.MCAST_JOIN_GROUP, m)
		}
		return s.changeGroup(unix.MCAST_LEAVE_GROUP, m)
	}
	var request [storageAt + 2*storageSize]byte
	binary.NativeEndian.PutUint32(request[:], uint32(m.Interface))
	putAddress(request[storageAt:], m.Group)
	putAddress(request[storageAt+storageSize:], m.Source)
	option := unix.MCAST_LEAVE_SOURCE_GROUP
	if join {
		option = unix.MCAST_JOIN_SOURCE_GROUP
	}
	return unix.SetsockoptString(s.fd, unix.SOL_IP, option, string(request[:]))
}

// changeGroup joins or leaves a group as a whole.
func (s *memberSocket) changeGroup(option int, m Membership) error {
	var request [storageAt + storageSize]byte
	binary.NativeEndian.PutUint32(request[:], uint32(m.Interface))
	putAddress(request[storageAt:], m.Group)
	return unix.SetsockoptString(s.fd, unix.SOL_IP, option, string(request[:]))
}

// putAddress writes a sockaddr_in.
func putAddress(b []byte, a netip.Addr) {
	binary.NativeEndian.PutUint16(b, unix.AF_INET)
	address := a.As4()
	copy(b[4:], address[:])
}

// joinError says what a refused join means.
func joinError(m Membership, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w: join %v: %w (see `ip link`)", ErrNoInterface, m, err)
	case errors.Is(err, unix.ENOBUFS):
		return fmt.Errorf("%w: join %v: %w (raise net.ipv4.igmp_max_memberships to 20 and net.ipv4.igmp_max_msf to 10, the kernel's defaults)", ErrTooManyGroups, m, err)
	}
	return fmt.Errorf("underlay: join %v: %w", m, err)
}
