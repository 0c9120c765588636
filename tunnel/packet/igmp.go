package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
)

// IGMPType is the kind of an IGMP message.
type IGMPType uint8

// The message types (RFC 1112, RFC 2236 §2.1, RFC 3376 §4).
const (
	IGMPQuery    IGMPType = 0x11
	IGMPv1Report IGMPType = 0x12
	IGMPv2Report IGMPType = 0x16
	IGMPv2Leave  IGMPType = 0x17
	IGMPv3Report IGMPType = 0x22
)

// RecordType is what a record of an IGMPv3 report says of its group (RFC 3376
// §4.2.12). MLDv2 has the same numbers (RFC 3810 §5.2.12).
type RecordType uint8

// The record types. Is… answer a query, Change… and the two others tell of a
// change: To… of the filter mode, Allow and Block of sources alone.
const (
	IsInclude       RecordType = 1
	IsExclude       RecordType = 2
	ChangeToInclude RecordType = 3
	ChangeToExclude RecordType = 4
	AllowNewSources RecordType = 5
	BlockOldSources RecordType = 6
)

// GroupRecord is one group of an IGMPv3 report.
type GroupRecord struct {
	Type    RecordType
	Group   netip.Addr
	Sources []netip.Addr
}

// IGMPMessage is an IGMP message of any version.
//
//	query             type 0x11 | max response code | checksum 2 | group 4
//	  of version 3    … | S and QRV 1 | QQIC 1 | number 2 | sources, 4 each
//	v1, v2, leave     type      | 0                 | checksum 2 | group 4
//	report of v3      type 0x22 | 0 | checksum 2 | 0 0 | number 2 | records
//	  record          type | aux length, in 4 bytes | number 2 | group 4 |
//	                  sources, 4 each | aux data
type IGMPMessage struct {
	Type    IGMPType
	Group   netip.Addr    // of all but v3 reports; 0.0.0.0 in a general query
	Records []GroupRecord // of v3 reports

	// Of queries alone. A query of version 1 has the response code 0, one of
	// version 2 another; only one of version 3 has the fields below.
	MaxResponse uint8 // a code: tenths of a second where it is below 128
	Version     uint8 // 1, 2 or 3
	Flags       uint8 // S and QRV (RFC 3376 §4.1.5, §4.1.6)
	Interval    uint8 // QQIC (§4.1.7)
	Sources     []netip.Addr
}

// What ParseIGMP and Encode fail with.
var (
	// ErrIGMP: not an IGMP message of a version known here, or one whose
	// numbers contradict its length.
	ErrIGMP = errors.New("packet: malformed IGMP message")
	// ErrIGMPChecksum: the message was damaged, or is no IGMP.
	ErrIGMPChecksum = errors.New("packet: wrong IGMP checksum")
)

const (
	igmpLen        = 8  // of all but v3 queries and reports
	igmpQueryLen   = 12 // of a v3 query without sources
	igmpRecordLen  = 8  // of a record without sources
	igmpAddressLen = 4
	// maxIGMP is what fits an IP packet behind a header with router alert.
	maxIGMP = 65535 - 24
)

// ParseIGMP reads an IGMP message: what follows the IP header. Auxiliary data of
// records and bytes behind the message are ignored, as RFC 3376 §4.2.6 and
// §4.2.11 want it. A type that it does not know is ErrIGMP; nothing here says
// whether an address is a group: that is the reader's to judge.
func ParseIGMP(b []byte) (*IGMPMessage, error) {
	if len(b) < igmpLen || len(b) > maxIGMP {
		return nil, ErrIGMP
	}
	if fold(sum(b, 0)) != 0xffff {
		return nil, ErrIGMPChecksum
	}
	m := &IGMPMessage{Type: IGMPType(b[0])}
	switch m.Type {
	case IGMPv1Report, IGMPv2Report, IGMPv2Leave:
		m.Group = addressAt(b, 4)
		return m, nil
	case IGMPQuery:
		return m.parseQuery(b)
	case IGMPv3Report:
		return m.parseRecords(b)
	}
	return nil, ErrIGMP
}

// parseQuery tells the versions apart by length and code (RFC 3376 §7.1).
func (m *IGMPMessage) parseQuery(b []byte) (*IGMPMessage, error) {
	m.MaxResponse, m.Group = b[1], addressAt(b, 4)
	switch {
	case len(b) == igmpLen && m.MaxResponse == 0:
		m.Version = 1
		return m, nil
	case len(b) == igmpLen:
		m.Version = 2
		return m, nil
	case len(b) < igmpQueryLen:
		return nil, ErrIGMP
	}
	m.Version, m.Flags, m.Interval = 3, b[8]&0x0f, b[9]
	var ok bool
	if m.Sources, ok = addresses(b[igmpQueryLen:], int(binary.BigEndian.Uint16(b[10:]))); !ok {
		return nil, ErrIGMP
	}
	return m, nil
}

func (m *IGMPMessage) parseRecords(b []byte) (*IGMPMessage, error) {
	number := int(binary.BigEndian.Uint16(b[6:]))
	b = b[igmpLen:]
	if number > len(b)/igmpRecordLen {
		return nil, ErrIGMP
	}
	for range number {
		if len(b) < igmpRecordLen {
			return nil, ErrIGMP
		}
		r := GroupRecord{Type: RecordType(b[0]), Group: addressAt(b, 4)}
		sources, aux := int(binary.BigEndian.Uint16(b[2:])), int(b[1])*4
		b = b[igmpRecordLen:]
		var ok bool
		if r.Sources, ok = addresses(b, sources); !ok || len(b) < sources*igmpAddressLen+aux {
			return nil, ErrIGMP
		}
		b = b[sources*igmpAddressLen+aux:]
		m.Records = append(m.Records, r)
	}
	return m, nil
}

// Encode writes the message, its checksum included and without auxiliary data.
// It returns ErrIGMP for what ParseIGMP could not read back.
func (m *IGMPMessage) Encode() ([]byte, error) {
	b := []byte{byte(m.Type), 0, 0, 0}
	var ok bool
	switch m.Type {
	case IGMPv1Report, IGMPv2Report, IGMPv2Leave:
		b, ok = appendAddress(b, m.Group)
	case IGMPQuery:
		b, ok = m.encodeQuery(b)
	case IGMPv3Report:
		b, ok = m.encodeRecords(b)
	default:
		return nil, ErrIGMP
	}
	if !ok || len(b) > maxIGMP {
		return nil, ErrIGMP
	}
	binary.BigEndian.PutUint16(b[2:], ^fold(sum(b, 0)))
	return b, nil
}

func (m *IGMPMessage) encodeQuery(b []byte) ([]byte, bool) {
	b[1] = m.MaxResponse
	b, ok := appendAddress(b, m.Group)
	short := len(m.Sources) == 0 && m.Flags == 0 && m.Interval == 0
	switch {
	case m.Version == 1 && short && m.MaxResponse == 0, m.Version == 2 && short && m.MaxResponse != 0:
		return b, ok
	case m.Version != 3 || m.Flags > 0x0f || len(m.Sources) > 0xffff:
		return nil, false
	}
	b = append(b, m.Flags, m.Interval)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Sources)))
	b, all := appendAddresses(b, m.Sources)
	return b, ok && all
}

func (m *IGMPMessage) encodeRecords(b []byte) ([]byte, bool) {
	if len(m.Records) > 0xffff {
		return nil, false
	}
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.Records)))
	for i := range m.Records {
		r := &m.Records[i]
		if len(r.Sources) > 0xffff {
			return nil, false
		}
		b = append(b, byte(r.Type), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Sources)))
		var ok, all bool
		b, ok = appendAddress(b, r.Group)
		b, all = appendAddresses(b, r.Sources)
		if !ok || !all {
			return nil, false
		}
	}
	return b, true
}

// Equal tells whether two messages say the same.
func (m *IGMPMessage) Equal(o *IGMPMessage) bool {
	return m.Type == o.Type && m.Group == o.Group && m.MaxResponse == o.MaxResponse && m.Version == o.Version &&
		m.Flags == o.Flags && m.Interval == o.Interval && slices.Equal(m.Sources, o.Sources) &&
		slices.EqualFunc(m.Records, o.Records, func(a, b GroupRecord) bool {
			return a.Type == b.Type && a.Group == b.Group && slices.Equal(a.Sources, b.Sources)
		})
}

func addressAt(b []byte, at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }

// addresses reads number addresses, nil for none, and tells whether they are there.
func addresses(b []byte, number int) ([]netip.Addr, bool) {
	if len(b) < number*igmpAddressLen {
		return nil, false
	}
	if number == 0 {
		return nil, true
	}
	out := make([]netip.Addr, number)
	for i := range out {
		out[i] = addressAt(b, i*igmpAddressLen)
	}
	return out, true
}

func appendAddress(b []byte, a netip.Addr) ([]byte, bool) {
	if !a.Is4() {
		return b, false
	}
	octets := a.As4()
	return append(b, octets[:]...), true
}

func appendAddresses(b []byte, all []netip.Addr) ([]byte, bool) {
	ok := true
	for _, a := range all {
		var is4 bool
		b, is4 = appendAddress(b, a)
		ok = ok && is4
	}
	return b, ok
}
