package underlay

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPending bounds how many errors of earlier datagrams one Receive skips.
const maxPending = 16

// receiver is one recvmsg with everything that it points to, so that nothing
// is allocated for a datagram. It belongs to the one goroutine that receives;
// the atomic is read by others.
type receiver struct {
	fd       int
	header   unix.Msghdr
	vector   unix.Iovec
	name     unix.RawSockaddrInet4
	control  [256]byte
	overflow atomic.Uint64
	last     uint32 // the kernel's overflow counter, which has 32 bits
}

func (r *receiver) init(fd int) {
	r.fd = fd
	r.header.Name = (*byte)(unsafe.Pointer(&r.name))
	r.header.Iov = &r.vector
	r.header.SetIovlen(1)
	r.header.Control = &r.control[0]
}

// Receive implements Conn. A RawSyscall is right for it, since it never sleeps
// (MSG_DONTWAIT).
func (u *UDP) Receive(m *Message) error {
	r := &u.in
	if len(m.Buffer) == 0 {
		return ErrAgain
	}
	r.vector.Base = &m.Buffer[0]
	r.vector.SetLen(len(m.Buffer))
	r.header.Namelen = unix.SizeofSockaddrInet4
	r.header.SetControllen(len(r.control))
	var length int
	for pending := 0; ; {
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.header)), unix.MSG_DONTWAIT)
		if errno == 0 {
			length = int(n)
			break
		}
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return ErrAgain
		case unix.EBADF:
			return ErrClosed
		default:
			// An error of an earlier datagram (an ICMP, say): reading it
			// clears it, and the queue goes on behind it.
			if pending++; pending > maxPending {
				return errno
			}
		}
	}
	m.Data = m.Buffer[:length]
	m.SegmentSize = length
	m.TOS = 0
	m.Interface = 0
	m.Destination = netip.Addr{}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&r.name.Port))[:])
	m.Source = netip.AddrPortFrom(netip.AddrFrom4(r.name.Addr), port)
	r.readControl(m)
	return nil
}

// readControl walks the control messages of the last receive.
func (r *receiver) readControl(m *Message) {
	rest := r.control[:min(int(r.header.Controllen), len(r.control))]
	for len(rest) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(rest) {
			return
		}
		data := rest[unix.CmsgLen(0):max(length, unix.CmsgLen(0))]
		switch {
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			m.Interface = int(info.Ifindex)
			m.Destination = netip.AddrFrom4(info.Addr)
		case h.Level == unix.SOL_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			m.TOS = data[0]
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			if size := int(*(*int32)(unsafe.Pointer(&data[0]))); size > 0 {
				m.SegmentSize = min(size, len(m.Data))
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			now := *(*uint32)(unsafe.Pointer(&data[0]))
			r.overflow.Add(uint64(now - r.last))
			r.last = now
		}
		advance := unix.CmsgSpace(length - unix.CmsgLen(0))
		if advance > len(rest) {
			return
		}
		rest = rest[advance:]
	}
}
