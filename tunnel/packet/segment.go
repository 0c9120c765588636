package packet

import "encoding/binary"

// Super is an IPv4 super-packet, cut into the packets that it stands for: what
// an application sent with UDP_SEGMENT, or a TCP segment larger than the MTU.
type Super struct {
	packet  []byte
	header  int // IP header
	headers int // IP and transport header: what each segment begins with
	segment int // payload bytes of each but the last
	next    int // where the next segment's payload begins
	index   int // number of the next segment
	tcp     bool
}

// Init takes a parsed super-packet, which must stay untouched until Next has
// returned the last segment. segment is the payload size of each. It returns
// ErrMalformed for one that cannot be cut.
func (s *Super) Init(b []byte, info *Info, segment int) error {
	*s = Super{}
	if info.Version != 4 || info.Fragment || segment <= 0 || info.Length > len(b) {
		return ErrMalformed
	}
	s.packet = b[:info.Length]
	s.header = int(info.HeaderLen)
	s.segment = segment
	switch info.Protocol {
	case ProtocolUDP:
		s.headers = s.header + udpHeaderLen
	case ProtocolTCP:
		s.tcp = true
		if len(s.packet) < s.header+tcpHeaderLen {
			return ErrMalformed
		}
		length := int(b[s.header+12]>>4) * 4
		if length < tcpHeaderLen {
			return ErrMalformed
		}
		s.headers = s.header + length
	default:
		return ErrMalformed
	}
	if s.headers >= len(s.packet) {
		return ErrMalformed
	}
	s.next = s.headers
	return nil
}

// NextLen is the length of the packet that Next will make; 0 behind the last.
func (s *Super) NextLen() int {
	if s.next >= len(s.packet) {
		return 0
	}
	return s.headers + min(s.segment, len(s.packet)-s.next)
}

// Remaining is the number of packets that Next has not made yet.
func (s *Super) Remaining() int {
	if s.next >= len(s.packet) {
		return 0
	}
	return (len(s.packet) - s.next + s.segment - 1) / s.segment
}

// Next makes the next packet at the beginning of out, complete with lengths,
// identification and checksums, and returns its length: NextLen. It returns 0
// behind the last one, or if out is shorter than that.
func (s *Super) Next(out []byte) int {
	length := s.NextLen()
	if length == 0 || len(out) < length {
		return 0
	}
	out = out[:length]
	copy(out, s.packet[:s.headers])
	payload := s.packet[s.next : s.next+length-s.headers]
	copy(out[s.headers:], payload)

	binary.BigEndian.PutUint16(out[2:], uint16(length))
	binary.BigEndian.PutUint16(out[4:], binary.BigEndian.Uint16(s.packet[4:])+uint16(s.index))
	out[10], out[11] = 0, 0
	binary.BigEndian.PutUint16(out[10:], ^fold(sum(out[:s.header], 0)))
	if s.tcp {
		s.finishTCP(out)
	} else {
		s.finishUDP(out)
	}
	s.next += len(payload)
	s.index++
	return length
}

// finishUDP sets length and checksum (RFC 768).
func (s *Super) finishUDP(out []byte) {
	udp := out[s.header:]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[6], udp[7] = 0, 0
	checksum := ^fold(transportSum(out, s.header))
	if checksum == 0 {
		checksum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], checksum)
}

// Flags of TCP that only the last segment, or only the first, may carry.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// finishTCP sets sequence number, flags and checksum (RFC 9293 §3.1).
func (s *Super) finishTCP(out []byte) {
	tcp := out[s.header:]
	sequence := binary.BigEndian.Uint32(s.packet[s.header+4:])
	binary.BigEndian.PutUint32(tcp[4:], sequence+uint32(s.index*s.segment))
	if s.next+s.segment < len(s.packet) {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if s.index > 0 {
		tcp[13] &^= tcpCWR
	}
	tcp[16], tcp[17] = 0, 0
	binary.BigEndian.PutUint16(tcp[16:], ^fold(transportSum(out, s.header)))
}
