package main

import "errors"

// maxNumber bounds the memory of order: 2³⁰ datagrams take 128 MiB of marks.
const maxNumber = 1 << 30

// errNumber is a number that no stream of this length has.
var errNumber = errors.New("datagram number out of range")

// order counts which numbers of a stream came, and in which order.
type order struct {
	seen      []uint64 // a bit for each number
	next      uint64   // one more than the highest that came
	received  uint64   // numbers that came, each once
	doubled   uint64   // more of a number that had come
	reordered uint64   // came after a higher one (RFC 4737 §3)
}

// add notes that a number came. It returns errNumber for one beyond all bounds.
func (o *order) add(number uint64) error {
	if number >= maxNumber {
		return errNumber
	}
	for word := number / 64; word >= uint64(len(o.seen)); {
		o.seen = append(o.seen, make([]uint64, max(1024, len(o.seen)))...)
	}
	bit := uint64(1) << (number % 64)
	if o.seen[number/64]&bit != 0 {
		o.doubled++
		return nil
	}
	o.seen[number/64] |= bit
	o.received++
	if number < o.next {
		o.reordered++
		return nil
	}
	o.next = number + 1
	return nil
}
