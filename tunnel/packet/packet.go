// Package packet reads the headers of inner IP packets: enough of them for
// selectors, and to tell apart what the kernel itself emits into a TUN. It
// also does the arithmetic that offloads leave to whoever reads a TUN:
// checksums, and the segments of a super-packet.
//
// [Parse] is the entry point, [ParseIGMP] that for what the kernel reports of
// joined groups. Nothing here panics on any input or keeps a reference to it, and
// nothing but the reading of reports allocates.
package packet

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers that are looked into (IANA).
const (
	ProtocolHopByHop = 0
	ProtocolICMP     = 1
	ProtocolIGMP     = 2
	ProtocolTCP      = 6
	ProtocolUDP      = 17
	ProtocolDCCP     = 33
	ProtocolICMPv6   = 58
	ProtocolSCTP     = 132
	ProtocolUDPLite  = 136
)

// Info is what Parse finds.
type Info struct {
	Source, Destination         netip.Addr
	SourcePort, DestinationPort uint16
	HasPorts                    bool  // the protocol has ports, and they are known
	Protocol                    uint8 // of the transport, behind IPv6's extension headers where they were walked
	Version                     uint8 // 4 or 6
	TOS                         uint8 // DSCP and ECN, traffic class in IPv6
	TTL                         uint8 // hop limit in IPv6
	HeaderLen                   uint8 // of the IP header with options; where the transport header begins
	Length                      int   // of the IP packet by its own header; what comes behind is padding
	Fragment                    bool  // a fragment, first or later; only a first one has ports
}

// Lengths of headers without options.
const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
	tcpHeaderLen  = 20
)

// Flags and offset of a fragment (RFC 791 §3.1).
const (
	moreFragments  = 0x2000
	fragmentOffset = 0x1fff
)

// Parse reads the headers of the IP packet in b. Its length by its own header
// may be smaller than len(b) (the rest is padding), never larger. It returns
// ErrNotIP, or ErrMalformed for selector data that makes no selector
// (RFC 4301 §4.4.1.1, Fig 12); info is then of no meaning, but for Version.
//
// IPv6 is parsed as far as this version needs it, which is to name it: of
// extension headers, hop-by-hop options only are walked.
func Parse(b []byte, info *Info) error {
	*info = Info{}
	if len(b) == 0 {
		return ErrNotIP
	}
	info.Version = b[0] >> 4
	switch info.Version {
	case 4:
		return parse4(b, info)
	case 6:
		return parse6(b, info)
	}
	return ErrNotIP
}

func parse4(b []byte, info *Info) error {
	if len(b) < ipv4HeaderLen {
		return ErrMalformed
	}
	header := int(b[0]&0x0f) * 4
	info.Length = int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4HeaderLen || info.Length < header || info.Length > len(b) {
		return ErrMalformed
	}
	info.HeaderLen = uint8(header)
	info.TOS = b[1]
	info.TTL = b[8]
	info.Protocol = b[9]
	info.Source = netip.AddrFrom4([4]byte(b[12:16]))
	info.Destination = netip.AddrFrom4([4]byte(b[16:20]))
	fragment := binary.BigEndian.Uint16(b[6:])
	info.Fragment = fragment&(moreFragments|fragmentOffset) != 0
	if fragment&fragmentOffset != 0 {
		// A later fragment: one that would end behind the largest packet is
		// no honest one.
		offset := int(fragment&fragmentOffset) * 8
		if offset+info.Length > 65535 {
			return ErrMalformed
		}
		return nil
	}
	return parsePorts(b[header:info.Length], info)
}

func parse6(b []byte, info *Info) error {
	if len(b) < ipv6HeaderLen {
		return ErrMalformed
	}
	info.Length = ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if info.Length > len(b) {
		return ErrMalformed
	}
	info.TOS = b[0]<<4 | b[1]>>4
	info.TTL = b[7]
	info.Source = netip.AddrFrom16([16]byte(b[8:24]))
	info.Destination = netip.AddrFrom16([16]byte(b[24:40]))
	info.Protocol = b[6]
	header := ipv6HeaderLen
	if info.Protocol == ProtocolHopByHop {
		if info.Length < header+8 {
			return ErrMalformed
		}
		info.Protocol = b[header]
		header += 8 + int(b[header+1])*8
		if header > info.Length || header > 255 {
			return ErrMalformed
		}
	}
	info.HeaderLen = uint8(header)
	return parsePorts(b[header:info.Length], info)
}

// parsePorts reads the ports, and checks that the transport header is there.
func parsePorts(transport []byte, info *Info) error {
	need := 0
	switch info.Protocol {
	case ProtocolUDP, ProtocolUDPLite:
		need = udpHeaderLen
	case ProtocolTCP:
		need = tcpHeaderLen
	case ProtocolDCCP, ProtocolSCTP:
		need = 12
	default:
		return nil
	}
	if len(transport) < need {
		return ErrMalformed
	}
	if info.Protocol == ProtocolUDP && !info.Fragment {
		if n := int(binary.BigEndian.Uint16(transport[4:])); n < udpHeaderLen || n > len(transport) {
			return ErrMalformed
		}
	}
	info.SourcePort = binary.BigEndian.Uint16(transport)
	info.DestinationPort = binary.BigEndian.Uint16(transport[2:])
	info.HasPorts = true
	return nil
}

// Housekeeping is what a kernel emits into a TUN by itself.
type Housekeeping uint8

// The kinds. Ordinary is everything that an application sent.
const (
	Ordinary Housekeeping = iota
	IGMP
	MLD
	RouterSolicitation
)

// Message types of ICMPv6 (RFC 2710, RFC 3810 §5, RFC 4861 §4.1).
const (
	typeMLDQuery           = 130
	typeMLDv1Report        = 131
	typeMLDv1Done          = 132
	typeRouterSolicitation = 133
	typeMLDv2Report        = 143
)

// Kernel tells whether a parsed packet is the kernel's own housekeeping.
func Kernel(b []byte, info *Info) Housekeeping {
	switch {
	case info.Version == 4 && info.Protocol == ProtocolIGMP:
		return IGMP
	case info.Version == 6 && info.Protocol == ProtocolICMPv6 && len(b) > int(info.HeaderLen):
		switch b[info.HeaderLen] {
		case typeMLDQuery, typeMLDv1Report, typeMLDv1Done, typeMLDv2Report:
			return MLD
		case typeRouterSolicitation:
			return RouterSolicitation
		}
	}
	return Ordinary
}
