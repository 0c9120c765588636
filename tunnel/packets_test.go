package tunnel_test

import (
	"encoding/binary"
	"net/netip"
)

// udp makes an IPv4 packet with a UDP datagram, right in every checksum,
// computed one word after the other, unlike in package packet.
func udp(source, destination netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 8, 17
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[6] = 0x40 // DF
	copy(b[12:], source.Addr().AsSlice())
	copy(b[16:], destination.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], source.Port())
	binary.BigEndian.PutUint16(b[22:], destination.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	copy(b[28:], payload)
	setChecksums(b)
	return b
}

// setChecksums makes IP header and UDP checksum right.
func setChecksums(b []byte) {
	b[10], b[11], b[26], b[27] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], ^words(b[:20], 0))
	binary.BigEndian.PutUint16(b[26:], ^words(b[20:], pseudo(b)))
}

// pseudo is the sum of the pseudo header.
func pseudo(b []byte) uint32 {
	return uint32(words(b[12:20], 0)) + 17 + uint32(len(b)-20)
}

// words is the ones' complement sum of b.
func words(b []byte, sum uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
