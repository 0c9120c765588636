package underlay

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendTimeoutMS bounds the wait for room in the socket's buffer. With the
// buffer's size it is reached only where the interface stands still.
const sendTimeoutMS = 100

// sender is one sendmsg with everything that it points to, so that nothing is
// allocated for a batch. It belongs to the one goroutine that sends; the
// atomics are read by others.
type sender struct {
	fd        int
	header    unix.Msghdr
	vector    unix.Iovec
	name      unix.RawSockaddrInet4
	poll      [1]unix.PollFd
	control   [256]byte
	fallbacks atomic.Uint64 // batches that were refused as such
	single    atomic.Bool   // batches go one by one

	// sendmsg is the system call; tests put a driver's refusal here.
	sendmsg func(fd int, header *unix.Msghdr) unix.Errno
}

// Control messages have a fixed order and fixed offsets: TOS, TTL, packet
// info, segment size. The last one is left away for a single datagram.
var (
	spaceInt      = unix.CmsgSpace(4)
	spacePacket   = unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	spaceSegment  = unix.CmsgSpace(2)
	offsetTTL     = spaceInt
	offsetPacket  = 2 * spaceInt
	offsetSegment = offsetPacket + spacePacket
)

func (s *sender) init(fd int, single bool) {
	s.fd = fd
	s.single.Store(single)
	s.sendmsg = rawSendmsg
	s.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	s.name.Family = unix.AF_INET
	s.header.Name = (*byte)(unsafe.Pointer(&s.name))
	s.header.Namelen = unix.SizeofSockaddrInet4
	s.header.Iov = &s.vector
	s.header.SetIovlen(1)
	s.header.Control = &s.control[0]
	s.controlMessage(0, unix.SOL_IP, unix.IP_TOS, 4)
	s.controlMessage(offsetTTL, unix.SOL_IP, unix.IP_TTL, 4)
	s.controlMessage(offsetPacket, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	s.controlMessage(offsetSegment, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
}

// controlMessage writes the header of a control message.
func (s *sender) controlMessage(offset, level, kind, length int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&s.control[offset]))
	h.Level, h.Type = int32(level), int32(kind)
	h.SetLen(unix.CmsgLen(length))
}

// controlData is where the data of the control message at offset begins.
func (s *sender) controlData(offset int) unsafe.Pointer {
	return unsafe.Pointer(&s.control[offset+unix.CmsgLen(0)])
}

// rawSendmsg never sleeps (MSG_DONTWAIT), so it need not tell the scheduler.
func rawSendmsg(fd int, header *unix.Msghdr) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(header)), unix.MSG_DONTWAIT)
	return errno
}

// Send implements Conn. A driver that refuses segmentation (EIO) is believed
// for good: from then on batches go one datagram at a time.
func (u *UDP) Send(b *Batch) (int, error) {
	segments := b.Segments()
	destination := b.Destination.Addr().Unmap()
	if !destination.Is4() || (b.Source.IsValid() && !b.Source.Unmap().Is4()) {
		return segments, ErrFamily
	}
	if len(b.Data) == 0 {
		return 0, nil
	}
	s := &u.out
	s.name.Addr = destination.As4()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.name.Port))[:], b.Destination.Port())
	leave := u.route.Load()
	if leave.index == 0 && destination.IsMulticast() {
		// The routes would choose the virtual interface, and the packet come
		// back to be sealed again.
		return segments, ErrNoInterface
	}
	source := leave.address
	if b.Source.IsValid() {
		source = b.Source.Unmap().As4()
	}
	ttl := b.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	*(*int32)(s.controlData(0)) = int32(b.TOS)
	*(*int32)(s.controlData(offsetTTL)) = int32(ttl)
	*(*unix.Inet4Pktinfo)(s.controlData(offsetPacket)) = unix.Inet4Pktinfo{Ifindex: leave.index, Spec_dst: source}

	if segments == 1 || s.single.Load() {
		return s.oneByOne(b, segments)
	}
	*(*uint16)(s.controlData(offsetSegment)) = uint16(b.SegmentSize)
	switch errno := s.send(b.Data, offsetSegment+spaceSegment); errno {
	case 0:
		return 0, nil
	case unix.EIO:
		s.single.Store(true)
	}
	// One datagram of the batch may be the reason, or the batch itself: each
	// gets its own chance, and its own verdict.
	s.fallbacks.Add(1)
	return s.oneByOne(b, segments)
}

// oneByOne sends the datagrams of a batch each by itself, in order.
func (s *sender) oneByOne(b *Batch, segments int) (refused int, err error) {
	data := b.Data
	for range segments {
		one := data
		if b.SegmentSize > 0 && len(one) > b.SegmentSize {
			one = one[:b.SegmentSize]
		}
		data = data[len(one):]
		if errno := s.send(one, offsetSegment); errno != 0 {
			refused++
			err = reason(errno)
		}
	}
	return refused, err
}

// send does one sendmsg. It waits for room in the socket's buffer, which is
// how a fast application is held back to the interface's speed.
func (s *sender) send(data []byte, controlLength int) unix.Errno {
	s.vector.Base = &data[0]
	s.vector.SetLen(len(data))
	s.header.SetControllen(controlLength)
	waited := false
	for {
		errno := s.sendmsg(s.fd, &s.header)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN && !waited:
			waited = true
			_, _ = unix.Poll(s.poll[:], sendTimeoutMS)
		default:
			return errno
		}
	}
}

// reason makes an error of a refusal, without allocating.
func reason(errno unix.Errno) error {
	if errno == unix.EMSGSIZE {
		return ErrTooBig
	}
	return errno
}
