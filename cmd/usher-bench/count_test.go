package main

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestOrder(t *testing.T) {
	var o order
	for _, n := range []uint64{0, 1, 3, 2, 3, 100_000, 4, 4} {
		if err := o.add(n); err != nil {
			t.Fatal(err)
		}
	}
	if o.received != 6 || o.doubled != 2 || o.reordered != 2 || o.next != 100_001 {
		t.Errorf("%d received, %d doubled, %d reordered, next %d", o.received, o.doubled, o.reordered, o.next)
	}
	if err := o.add(maxNumber); !errors.Is(err, errNumber) {
		t.Error(err)
	}
}

// The histogram's quantiles are those of a sorted list, within its precision.
func TestHistogram(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	if h.latency() != nil {
		t.Error("an empty histogram has a latency")
	}
	var all []int64
	for range 50_000 {
		v := int64(random.ExpFloat64() * 200_000)
		all = append(all, v)
		h.add(v)
	}
	slices.Sort(all)
	for _, q := range []float64{0, .5, .9, .99, .999} {
		want := all[int(q*float64(len(all)))]
		if got := h.at(q); got < want-want/200-1 || got > want+want/200+1 {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := h.at(1); got != all[len(all)-1] {
		t.Errorf("the maximum is %d, want %d", got, all[len(all)-1])
	}
	for _, v := range []int64{-5, 0, 1, 255, 256, 257, 1 << 40, 1<<62 + 12345} {
		if m := middleOf(binOf(v)); v >= 0 && (m < v-v/200-1 || m > v+v/200+1) {
			t.Errorf("%d is in the bin of %d", v, m)
		}
	}
}
