package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"usher/keyclient/derive"
)

// Report is what a client saw since its last accepted report. It is an
// indication only: a retry repeats it.
type Report struct{ Received, Lost, BadICV uint32 } // packets

// Request is a refresh request (docs/keying.md §5.1).
//
//	  0  type 1 | version 1 | length 2 of the whole datagram
//	  4  tag 8
//	 12  cookie number n 4
//	 16  flags 1 (bit 0: path wanted) | want 1 | reserved 2
//	 20  generation of the path wanted 4, else 0
//	 24  request id 16, first bit 0, new for each try
//	 40  cookie 76
//	116  report 28: AEAD under Aⱼ, nonce = id[0:12], associated data = bytes 0…115,
//	     of received 4 ‖ lost 4 ‖ bad ICV 4
//	144  zeros up to length, so that the answer has room
type Request struct {
	Tag          derive.Tag
	N            uint32 // the cookie's number
	PathWanted   bool
	Want         uint8  // key records, 0…8; 0 asks the time
	Generation   uint32 // of the path wanted, else 0
	ID           [16]byte
	Cookie       [CookieLen]byte
	SealedReport [28]byte
	Length       int // of the datagram: the answer will be as long; 0 for Encode: the least
}

const (
	offsetID     = 24
	offsetCookie = 40
	offsetReport = offsetCookie + CookieLen
	requestFixed = offsetReport + 28
	flagPath     = 1
)

// RequestLen is the least length of a request for want keys (docs/keying.md
// §5.1); path adds room for the head of a path record, without its levels.
func RequestLen(want uint8, path bool) int {
	n := MinRequest
	if want > 1 {
		n += recordLen * (int(want) - 1)
	}
	if path {
		n += pathHeadLen
	}
	return n
}

// BuildRequest writes a request without a path under a = Aⱼ, padded to what
// want needs. id is random; its first bit is cleared here.
func BuildRequest(a *derive.Secret, tag derive.Tag, n uint32, cookie [CookieLen]byte, want uint8, id [16]byte, r Report) ([]byte, error) {
	id[0] &^= 0x80
	return (&Request{Tag: tag, N: n, Want: want, ID: id, Cookie: cookie}).Encode(a, r)
}

// Encode writes the request with its report sealed under a = Aⱼ.
func (r *Request) Encode(a *derive.Secret, report Report) ([]byte, error) {
	length := r.Length
	least := RequestLen(r.Want, r.PathWanted)
	if length == 0 {
		length = least
	}
	if err := r.check(length); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncode, err)
	}
	b := make([]byte, 0, length)
	b = appendHeader(b, typeRequest, length)
	b = append(b, r.Tag[:]...)
	b = binary.BigEndian.AppendUint32(b, r.N)
	var flags byte
	if r.PathWanted {
		flags = flagPath
	}
	b = append(b, flags, r.Want, 0, 0)
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	b = append(b, r.ID[:]...)
	b = append(b, r.Cookie[:]...)

	var plain [12]byte
	binary.BigEndian.PutUint32(plain[0:], report.Received)
	binary.BigEndian.PutUint32(plain[4:], report.Lost)
	binary.BigEndian.PutUint32(plain[8:], report.BadICV)
	b = derive.NewAEAD(a).Seal(b, r.ID[:12], plain[:], b[:offsetReport])
	return b[:length], nil // the rest of a fresh slice is zeros
}

// check holds what Encode and ParseRequest ask alike.
func (r *Request) check(length int) error {
	switch {
	case r.Want > MaxWant:
		return fmt.Errorf("want %d of at most %d", r.Want, MaxWant)
	case r.ID[0]&0x80 != 0:
		return errors.New("request id has its first bit set")
	case !r.PathWanted && r.Generation != 0:
		return fmt.Errorf("generation %d, but no path wanted", r.Generation)
	case length > MaxDatagram:
		return fmt.Errorf("length %d of at most %d", length, MaxDatagram)
	case length < RequestLen(r.Want, r.PathWanted):
		return fmt.Errorf("length %d has no room for %d keys", length, r.Want)
	}
	return nil
}

// ParseRequest is step 1 of docs/keying.md §5.3: it checks the form of a
// request. The error wraps ErrDrop with what is wrong, or is a *[NAKError].
// The cookie and the report are still sealed.
func ParseRequest(b []byte) (*Request, error) {
	if len(b) < MinRequest || len(b) > MaxDatagram {
		return nil, drop("request of %d bytes, not %d to %d", len(b), MinRequest, MaxDatagram)
	}
	if b[0] != typeRequest {
		return nil, drop("type %d is no request", b[0])
	}
	if said := int(binary.BigEndian.Uint16(b[2:])); said != len(b) {
		return nil, drop("length field says %d of %d bytes", said, len(b))
	}
	r := &Request{
		Tag:          derive.Tag(b[4:12]),
		N:            binary.BigEndian.Uint32(b[12:]),
		PathWanted:   b[16] == flagPath,
		Want:         b[17],
		Generation:   binary.BigEndian.Uint32(b[20:]),
		ID:           [16]byte(b[offsetID:]),
		Cookie:       [CookieLen]byte(b[offsetCookie:]),
		SealedReport: [28]byte(b[offsetReport:]),
		Length:       len(b),
	}
	if b[1] != Version {
		return nil, &NAKError{ID: r.ID, Code: NAKVersion}
	}
	switch {
	case b[16]&^flagPath != 0:
		return nil, drop("unknown flags %02x", b[16])
	case b[18] != 0 || b[19] != 0:
		return nil, drop("reserved bytes are not zero")
	case !allZero(b[requestFixed:]):
		return nil, drop("padding is not zero")
	}
	if err := r.check(len(b)); err != nil {
		return nil, drop("%s", err)
	}
	return r, nil
}

// OpenReport opens the report of raw, the datagram that r was parsed from,
// under a = Aⱼ: step 5 of docs/keying.md §5.3. The error wraps ErrDrop. Only
// who holds Kⱼ can have sealed it: a cookie seen on the wire drives nothing.
func (r *Request) OpenReport(a *derive.Secret, raw []byte) (Report, error) {
	if len(raw) != r.Length || len(raw) < requestFixed {
		return Report{}, drop("not the datagram of this request")
	}
	plain, err := derive.NewAEAD(a).Open(make([]byte, 0, 12), r.ID[:12], r.SealedReport[:], raw[:offsetReport])
	if err != nil {
		return Report{}, drop("report does not open")
	}
	return Report{
		Received: binary.BigEndian.Uint32(plain[0:]),
		Lost:     binary.BigEndian.Uint32(plain[4:]),
		BadICV:   binary.BigEndian.Uint32(plain[8:]),
	}, nil
}
