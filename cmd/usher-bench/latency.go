package main

import "math/bits"

// histogram counts durations of nanoseconds in bins of at most 0.4 percent of
// their value, so that a run of any length takes the same memory.
type histogram struct {
	bins [histogramBins]uint32
	n    uint64
	sum  int64
	most int64
}

// 2⁷ bins for each power of two.
const (
	binBits       = 7
	histogramBins = (64 - binBits) << binBits
)

func binOf(ns int64) int {
	v := uint64(max(ns, 0))
	if v < 2<<binBits {
		return int(v)
	}
	shift := bits.Len64(v) - binBits - 1
	return shift<<binBits + int(v>>shift)
}

// middleOf is the middle of a bin.
func middleOf(bin int) int64 {
	if bin < 2<<binBits {
		return int64(bin)
	}
	shift := bin>>binBits - 1
	low := (int64(bin&(1<<binBits-1)) | 1<<binBits) << shift
	return low + (1<<shift)/2
}

func (h *histogram) add(ns int64) {
	h.bins[binOf(ns)]++
	h.n++
	h.sum += ns
	h.most = max(h.most, ns)
}

// at is the value that the fraction q of all values do not exceed, in ns.
func (h *histogram) at(q float64) int64 {
	rank := uint64(q * float64(h.n))
	var seen uint64
	for bin, n := range h.bins {
		seen += uint64(n)
		if seen > rank {
			return min(middleOf(bin), h.most)
		}
	}
	return h.most
}

// Latency is a distribution of times, in µs.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// latency sums up the histogram; nil if it is empty.
func (h *histogram) latency() *Latency {
	if h.n == 0 {
		return nil
	}
	us := func(ns int64) float64 { return float64(ns) / 1000 }
	return &Latency{
		P50: us(h.at(.5)), P90: us(h.at(.9)), P99: us(h.at(.99)), P999: us(h.at(.999)),
		Max: us(h.most), Mean: us(h.sum) / float64(h.n),
	}
}
