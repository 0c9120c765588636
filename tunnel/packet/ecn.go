package packet

import "encoding/binary"

// ECN code points, the low two bits of the TOS byte (RFC 3168 §5).
const (
	ecnMask   = 3
	ecnNotECT = 0
	ecnECT1   = 1
	ecnECT0   = 2
	ecnCE     = 3
)

// CombineECN puts the outer header's ECN mark into the inner IPv4 packet b, as
// RFC 6040 §4.2 has it, and keeps the header checksum right:
//
//	inner \ outer  Not-ECT  ECT(0)   ECT(1)   CE
//	Not-ECT        Not-ECT  Not-ECT  Not-ECT  ErrCongestion
//	ECT(0)         ECT(0)   ECT(0)   ECT(1)   CE
//	ECT(1)         ECT(1)   ECT(1)   ECT(1)   CE
//	CE             CE       CE       CE       CE
//
// The inner DSCP stays (RFC 4301 §5.1.2).
func CombineECN(b []byte, outerTOS uint8) error {
	if len(b) < ipv4HeaderLen {
		return ErrMalformed
	}
	inner, outer := b[1]&ecnMask, outerTOS&ecnMask
	result := inner
	switch {
	case inner == ecnNotECT && outer == ecnCE:
		return ErrCongestion
	case inner == ecnNotECT:
	case outer == ecnCE, inner == ecnECT0 && outer == ecnECT1:
		result = outer
	}
	if result != inner {
		setTOS(b, b[1]&^ecnMask|result)
	}
	return nil
}

// setTOS changes the second byte of an IPv4 header and its checksum by the
// difference (RFC 1624 §3, equation 3).
func setTOS(b []byte, tos uint8) {
	before := binary.BigEndian.Uint16(b)
	b[1] = tos
	after := binary.BigEndian.Uint16(b)
	sum := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(^before) + uint32(after)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
}
