package main

import "slices"

// median of values; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// ratios divides round by round: what disturbed a round disturbed both.
func ratios(ours, other []float64) (r []float64) {
	for i := range min(len(ours), len(other)) {
		if other[i] > 0 {
			r = append(r, ours[i]/other[i])
		}
	}
	return r
}

// each takes one value out of every run.
func each[R any](runs []R, value func(R) float64) (values []float64) {
	for _, r := range runs {
		values = append(values, value(r))
	}
	return values
}

// cheapest is the name with the least median.
func cheapest(byName map[string][]float64) (name string) {
	for n, values := range byName {
		if len(values) > 0 && (name == "" || median(values) < median(byName[name])) {
			name = n
		}
	}
	return name
}
