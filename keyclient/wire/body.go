package wire

import (
	"encoding/binary"
	"fmt"

	"usher/keyclient/derive"
)

// Statuses of a body (docs/keying.md §5.2). Package schedule has them as a type
// with names; here they only say which fields may be there.
const (
	statusGiven      = 0
	statusNotYet     = 2
	statusEnded      = 3
	statusEnrolAgain = 4
	statusIncomplete = 7
)

// Kinds of interval key (docs/keying.md §2).
const (
	KindGroup           uint8 = 0 // Bᵢ, multicast
	KindUnicastSender   uint8 = 1 // Qᵢ
	KindUnicastReceiver uint8 = 2 // P, one record for each sender
)

// Record is one interval key (docs/keying.md §5.2).
//
//	 0  interval 4 | SPI 4 (kinds 1, 2: the sender's number)
//	 8  transform 1 | kind 1 | zero 2
//	12  initiation 8 (Tᵢ, ms) | lifetime 4 (Tᵢ₊₁ − Tᵢ, ms)
//	24  interval key 32 (zeros under status 7)
type Record struct {
	Interval     uint32
	SPI          uint32
	Transform    uint8 // derive.Transform…
	Kind         uint8 // Kind…
	InitiationMS int64 // Tᵢ, Unix time
	LifetimeMS   uint32
	Key          *derive.Secret
}

// Level is one node key of a path.
type Level struct {
	Version uint32
	Key     *derive.Secret
}

// Path is a path record of a push event: the node keys of levels 1…h. Height
// without Levels means that the request had no room for them.
//
//	0  generation 4 | h 1 | zero 1
//	6  for levels 1…h: version 4 ‖ node key 32
type Path struct {
	Generation uint32
	Height     uint8
	Levels     []Level
}

// Body is what an answer seals, and what a grant carries (docs/keying.md §5.2).
//
//	  0  status 1 | number of keys k 1 | edition 2
//	  4  server's time at sending 8, µs | µs since the request came in 4
//	 16  next window: opens in 4, ms | lasts 4, ms from then on
//	 24  number n' 4 | new cookie 76
//	104  k records of 56
//	  …  if asked: path record, 6 + 36 h
//	  …  zeros
type Body struct {
	Status        uint8
	Edition       uint16 // now in force
	ServerTimeUS  uint64 // Unix time
	ElapsedUS     uint32
	WindowOpensMS uint32 // from now; 0 if open
	WindowLastsMS uint32 // from its opening, or what is left; both 0: none
	CookieNumber  uint32
	Cookie        [CookieLen]byte // zeros under status 3 and 4
	Records       []Record
	Path          *Path // nil where none was asked
}

const (
	bodyFixed   = 104
	recordLen   = 56
	pathHeadLen = 6
	levelLen    = 36
)

// Encode writes the body, filled with zeros up to length; 0 means as many
// bytes as needed (the grant). The caller wipes the result.
func (b *Body) Encode(length int) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncode, err)
	}
	need := bodyFixed + recordLen*len(b.Records)
	if b.Path != nil {
		need += pathHeadLen + levelLen*len(b.Path.Levels)
	}
	if length == 0 {
		length = need
	}
	if need > length {
		return nil, fmt.Errorf("%w: body needs %d bytes, there are %d", ErrEncode, need, length)
	}
	out := make([]byte, 0, length)
	out = append(out, b.Status, uint8(len(b.Records)))
	out = binary.BigEndian.AppendUint16(out, b.Edition)
	out = binary.BigEndian.AppendUint64(out, b.ServerTimeUS)
	out = binary.BigEndian.AppendUint32(out, b.ElapsedUS)
	out = binary.BigEndian.AppendUint32(out, b.WindowOpensMS)
	out = binary.BigEndian.AppendUint32(out, b.WindowLastsMS)
	out = binary.BigEndian.AppendUint32(out, b.CookieNumber)
	out = append(out, b.Cookie[:]...)
	for _, r := range b.Records {
		out = binary.BigEndian.AppendUint32(out, r.Interval)
		out = binary.BigEndian.AppendUint32(out, r.SPI)
		out = append(out, r.Transform, r.Kind, 0, 0)
		out = binary.BigEndian.AppendUint64(out, uint64(r.InitiationMS))
		out = binary.BigEndian.AppendUint32(out, r.LifetimeMS)
		out = append(out, r.Key.Bytes()...)
	}
	if p := b.Path; p != nil {
		out = binary.BigEndian.AppendUint32(out, p.Generation)
		out = append(out, p.Height, 0)
		for _, l := range p.Levels {
			out = binary.BigEndian.AppendUint32(out, l.Version)
			out = append(out, l.Key.Bytes()...)
		}
	}
	return out[:length], nil
}

// check holds what Encode and the parsers ask alike.
func (b *Body) check() error {
	withRecords := b.Status == statusGiven || b.Status == statusIncomplete
	over := b.Status == statusEnded || b.Status == statusEnrolAgain
	switch {
	case b.Status > statusIncomplete:
		return fmt.Errorf("unknown status %d", b.Status)
	case len(b.Records) > MaxWant:
		return fmt.Errorf("%d records of at most %d", len(b.Records), MaxWant)
	case len(b.Records) > 0 && !withRecords:
		return fmt.Errorf("records with status %d", b.Status)
	case over && (b.CookieNumber != 0 || !allZero(b.Cookie[:])):
		return fmt.Errorf("cookie with status %d", b.Status)
	case over && (b.WindowOpensMS != 0 || b.WindowLastsMS != 0):
		return fmt.Errorf("next window with status %d", b.Status)
	}
	for i, r := range b.Records {
		switch {
		case r.Kind > KindUnicastReceiver:
			return fmt.Errorf("record %d: unknown kind %d", i, r.Kind)
		case r.InitiationMS < 0:
			return fmt.Errorf("record %d: initiation before 1970", i)
		case r.LifetimeMS == 0:
			return fmt.Errorf("record %d: no lifetime", i)
		case b.Status == statusIncomplete && !allZero(r.Key.Bytes()):
			return fmt.Errorf("record %d: a key with status %d", i, b.Status)
		}
	}
	if p := b.Path; p != nil {
		if !withRecords && b.Status != statusNotYet && (p.Height != 0 || p.Generation != 0) {
			return fmt.Errorf("path with status %d", b.Status)
		}
		if len(p.Levels) != 0 && len(p.Levels) != int(p.Height) {
			return fmt.Errorf("path of height %d with %d levels", p.Height, len(p.Levels))
		}
	}
	return nil
}

// ParseBody reads a body without a path record. The error wraps ErrDrop. The
// caller wipes b.
func ParseBody(b []byte) (*Body, error) { return parseBody(b, false) }

// ParseBodyWithPath reads a body with a path record: a body does not say by
// itself whether one was asked for.
func ParseBodyWithPath(b []byte) (*Body, error) { return parseBody(b, true) }

func parseBody(b []byte, withPath bool) (*Body, error) {
	if len(b) < bodyFixed {
		return nil, drop("body of %d bytes", len(b))
	}
	out := &Body{
		Status:        b[0],
		Edition:       binary.BigEndian.Uint16(b[2:]),
		ServerTimeUS:  binary.BigEndian.Uint64(b[4:]),
		ElapsedUS:     binary.BigEndian.Uint32(b[12:]),
		WindowOpensMS: binary.BigEndian.Uint32(b[16:]),
		WindowLastsMS: binary.BigEndian.Uint32(b[20:]),
		CookieNumber:  binary.BigEndian.Uint32(b[24:]),
		Cookie:        [CookieLen]byte(b[28:]),
	}
	k, rest := int(b[1]), b[bodyFixed:]
	if k > MaxWant || len(rest) < k*recordLen {
		return nil, drop("body of %d bytes has no %d records", len(b), k)
	}
	for ; k > 0; k-- {
		r, err := parseRecord(rest[:recordLen])
		if err != nil {
			return nil, err
		}
		out.Records = append(out.Records, r)
		rest = rest[recordLen:]
	}
	if withPath {
		p, used, err := parsePath(rest)
		if err != nil {
			return nil, err
		}
		out.Path, rest = p, rest[used:]
	}
	if !allZero(rest) {
		return nil, drop("padding of the body is not zero")
	}
	if err := out.check(); err != nil {
		return nil, drop("%s", err)
	}
	return out, nil
}

func parseRecord(b []byte) (Record, error) {
	if b[10] != 0 || b[11] != 0 {
		return Record{}, drop("zero bytes of a record are not zero")
	}
	key, err := derive.NewSecret(b[24:])
	if err != nil {
		return Record{}, drop("record without a key")
	}
	return Record{
		Interval:     binary.BigEndian.Uint32(b[0:]),
		SPI:          binary.BigEndian.Uint32(b[4:]),
		Transform:    b[8],
		Kind:         b[9],
		InitiationMS: int64(binary.BigEndian.Uint64(b[12:])),
		LifetimeMS:   binary.BigEndian.Uint32(b[20:]),
		Key:          key,
	}, nil
}

func parsePath(b []byte) (*Path, int, error) {
	if len(b) < pathHeadLen {
		return nil, 0, drop("body has no room for a path")
	}
	if b[5] != 0 {
		return nil, 0, drop("zero byte of the path is not zero")
	}
	p := &Path{Generation: binary.BigEndian.Uint32(b), Height: b[4]}
	used := pathHeadLen
	if len(b) < used+levelLen*int(p.Height) {
		return p, used, nil // left out, all of them: the request had no room
	}
	for range p.Height {
		key, err := derive.NewSecret(b[used+4 : used+levelLen])
		if err != nil {
			return nil, 0, drop("path level without a key")
		}
		p.Levels = append(p.Levels, Level{Version: binary.BigEndian.Uint32(b[used:]), Key: key})
		used += levelLen
	}
	return p, used, nil
}

// Wipe clears the body's keys.
func (b *Body) Wipe() {
	for _, r := range b.Records {
		r.Key.Wipe()
	}
	if b.Path != nil {
		for _, l := range b.Path.Levels {
			l.Key.Wipe()
		}
	}
}
