package packet

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b to an Internet checksum (RFC 1071), not folded. The initial value
// is a sum of 16-bit words or 0.
func sum(b []byte, initial uint64) uint64 {
	total, carry := initial, uint64(0)
	for len(b) >= 32 {
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[8:]), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[16:]), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var rest [8]byte
	copy(rest[:], b)
	total, carry = bits.Add64(total, binary.BigEndian.Uint64(rest[:]), carry)
	total, carry = bits.Add64(total, 0, carry)
	return total + carry
}

// fold makes 16 bits of a sum.
func fold(total uint64) uint16 {
	total = total>>32 + total&0xffffffff
	total = total>>16 + total&0xffff
	total = total>>16 + total&0xffff
	total = total>>16 + total&0xffff
	return uint16(total)
}

// CompleteChecksum finishes the transport checksum of a packet whose checksum
// field, offset bytes behind start, holds the sum of the pseudo header only.
func CompleteChecksum(b []byte, start, offset int) error {
	at := start + offset
	if start < 0 || offset < 0 || start > len(b) || at+2 > len(b) {
		return ErrMalformed
	}
	partial := uint64(binary.BigEndian.Uint16(b[at:]))
	b[at], b[at+1] = 0, 0
	checksum := ^fold(sum(b[start:], partial))
	if checksum == 0 && offset == 6 {
		checksum = 0xffff // UDP: 0 would say that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(b[at:], checksum)
	return nil
}

// transportSum is the sum of pseudo header and transport segment of an IPv4
// packet (RFC 768, RFC 9293 §3.1).
func transportSum(b []byte, header int) uint64 {
	length := len(b) - header
	return sum(b[header:], sum(b[12:20], uint64(b[9])+uint64(length)))
}

// SetHeaderChecksum computes the checksum of an IPv4 header of header bytes.
func SetHeaderChecksum(b []byte, header int) error {
	if header < ipv4HeaderLen || len(b) < header {
		return ErrMalformed
	}
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:header], 0)))
	return nil
}
