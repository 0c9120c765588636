package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What stands in front of each datagram, big-endian:
//
//	 0               4       5           8
//	+---------------+-------+-----------+
//	| magic "USHB"  | kind  | zero      |
//	+---------------+-------+-----------+
//	| number of the datagram            |  8
//	+-----------------------------------+
//	| when it was sent, CLOCK_MONOTONIC |  8, nanoseconds
//	+-----------------+-----------------+
//	| stream        4 | length        4 |
//	+-----------------+-----------------+
//
// The rest is zero. An end's number is how many datagrams the stream had.
const (
	magic     = 0x55534842
	headerLen = 32
	maxSize   = 65507 // what UDP over IPv4 can hold
)

// kind is what a datagram is.
type kind uint8

const (
	kindData kind = iota
	kindEnd
	kindPing
	kindPong
)

// errNotOurs is a datagram that none of these commands made.
var errNotOurs = errors.New("no datagram of usher-bench")

// header is what stands in front of a datagram.
type header struct {
	kind   kind
	number uint64
	sentNS int64
	stream uint32
	length int
}

// put writes the header to the front of b, which is the whole datagram.
func (h header) put(b []byte) {
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5], b[6], b[7] = byte(h.kind), 0, 0, 0
	binary.BigEndian.PutUint64(b[8:], h.number)
	binary.BigEndian.PutUint64(b[16:], uint64(h.sentNS))
	binary.BigEndian.PutUint32(b[24:], h.stream)
	binary.BigEndian.PutUint32(b[28:], uint32(h.length))
}

// parse reads the header of a datagram. It returns errNotOurs, and no header,
// for anything else.
func parse(b []byte) (header, error) {
	if len(b) < headerLen || binary.BigEndian.Uint32(b) != magic || b[4] > byte(kindPong) || b[5]|b[6]|b[7] != 0 {
		return header{}, errNotOurs
	}
	return header{
		kind:   kind(b[4]),
		number: binary.BigEndian.Uint64(b[8:]),
		sentNS: int64(binary.BigEndian.Uint64(b[16:])),
		stream: binary.BigEndian.Uint32(b[24:]),
		length: int(binary.BigEndian.Uint32(b[28:])),
	}, nil
}

// sizes is a range of lengths, both ends included; a flag's value.
type sizes struct{ least, most int }

func (s *sizes) Type() string { return "bytes" }
func (s *sizes) String() string {
	if s.least == s.most {
		return strconv.Itoa(s.least)
	}
	return fmt.Sprintf("%d-%d", s.least, s.most)
}

func (s *sizes) Set(text string) error {
	least, most, mixed := strings.Cut(text, "-")
	if !mixed {
		most = least
	}
	var v sizes
	var err error
	if v.least, err = strconv.Atoi(least); err != nil {
		return err
	}
	if v.most, err = strconv.Atoi(most); err != nil {
		return err
	}
	if v.least < headerLen || v.most < v.least || v.most > maxSize {
		return fmt.Errorf("want %d to %d bytes, N or N-M", headerLen, maxSize)
	}
	*s = v
	return nil
}

// of is the length of the datagram with a number: the same in each run, and
// without a pattern that a receiver could merge by.
func (s sizes) of(number uint64) int {
	if s.least == s.most {
		return s.least
	}
	// The finalizer of SplitMix64, a well-known mixing function.
	z := number + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return s.least + int(z%uint64(s.most-s.least+1))
}
