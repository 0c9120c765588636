package stream

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrForeign says that a place saw a datagram that was never sent, or saw the
// datagrams in another order.
var ErrForeign = errors.New("stream: a datagram that was not sent, or out of order")

// Match finds each of got among sent, in order, by content, and returns the index
// in sent of each. ErrForeign if one is not there behind the one before it.
func Match(sent, got []Datagram) ([]int, error) {
	indexes := make([]int, 0, len(got))
	next := 0
	for i, datagram := range got {
		for next < len(sent) && !bytes.Equal(sent[next].Payload, datagram.Payload) {
			next++
		}
		if next == len(sent) {
			return nil, fmt.Errorf("%w: number %d of those received, at %s", ErrForeign, i, datagram.At.Format("15:04:05.000"))
		}
		indexes = append(indexes, next)
		next++
	}
	return indexes, nil
}

// Lost counts the datagrams of sent that are missing between the first and the
// last of indexes, as Match returns them.
func Lost(indexes []int) int {
	if len(indexes) == 0 {
		return 0
	}
	return indexes[len(indexes)-1] - indexes[0] + 1 - len(indexes)
}

// FromFirstKeyFrame returns the frames of frames that come from the first key frame
// among those received on, by presentation time: what a player that was already
// waiting should show. It returns nil where no key frame was received.
func FromFirstKeyFrame(sent []int64, received []Frame) []int64 {
	for _, frame := range received {
		if !frame.Key {
			continue
		}
		var due []int64
		for _, pts := range sent {
			if pts >= frame.PTS {
				due = append(due, pts)
			}
		}
		return due
	}
	return nil
}

// Both returns the presentation times of due that are among decoded.
func Both(due, decoded []int64) []int64 {
	seen := make(map[int64]bool, len(decoded))
	for _, pts := range decoded {
		seen[pts] = true
	}
	var both []int64
	for _, pts := range due {
		if seen[pts] {
			both = append(both, pts)
		}
	}
	return both
}
