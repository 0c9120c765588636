package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// printTable prints what was measured, for a person.
func printTable(w io.Writer, f *Figures) {
	m := f.Machine
	fmt.Fprintf(w, "\n%d processors (%s), Linux %s, %s, load before %.2f, %s\n", m.CPUs, m.CPU, m.Kernel, m.Go, m.LoadBefore, m.When)
	if m.Noisy {
		fmt.Fprintln(w, "NOISY: others were at work on this machine; do not trust the figures")
	}
	printPaced(w, f)
	printIdle(w, f)
	printFanout(w, f)
	printForgery(w, f)
	printScale(w, f)
	if r := f.Raw.Rollover; r != nil {
		fmt.Fprintf(w, "\nrollover: %d key changes, %d datagrams at %.0f/s: lost %d, duplicated %d, reordered %d, damaged %d; by the sink's buffer %d\n",
			r.Changes, r.Offered, r.Rate, r.Lost, r.Duplicated, r.Reordered, r.Damaged, r.Overflow)
	}
	fmt.Fprintln(w)
	for _, p := range parts {
		for _, name := range p.fields {
			fmt.Fprintf(w, "%-30s %s\n", name, f.value(name))
		}
	}
}

func row(w io.Writer, cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }

func head(w io.Writer, title string, cells ...string) {
	fmt.Fprintf(w, "\n%s\n\n", title)
	row(w, cells...)
	row(w, strings.Split(strings.Repeat("---,", len(cells)-1)+"---", ",")...)
}

// variantOrder is ours, no tunnel, and the others.
func variantOrder[V any](m map[string]V) []string {
	var names []string
	for _, v := range append([]string{variantUsher, variantPlain}, peerVariants...) {
		if _, ok := m[v]; ok {
			names = append(names, v)
		}
	}
	return names
}

func spread(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", median(values), slices.Min(values), slices.Max(values))
}

func printPaced(w io.Writer, f *Figures) {
	for _, o := range []load{loadBursts, loadEven, loadLow} {
		runs := f.Raw.Paced[o.name]
		if len(runs) == 0 {
			continue
		}
		head(w, fmt.Sprintf("%s: %d datagrams a second of %s bytes; daemons' CPU a packet, µs, median of %d", o.name, o.rate, o.size, f.Rounds),
			"variant", "sender", "receiver", "both", "ours ÷ it (range)", "latency p50/p99 µs", "lost of sent")
		ours := each(runs[variantUsher], Run.cpu)
		for _, v := range variantOrder(runs) {
			r := runs[v]
			ratio := "-"
			if v != variantUsher && v != variantPlain {
				ratio = spread(ratios(ours, each(r, Run.cpu)))
			}
			var lost, sent uint64
			for _, one := range r {
				lost, sent = lost+one.Lost+one.Overflow, sent+one.Sent
			}
			row(w, v,
				fmt.Sprintf("%.2f", median(each(r, func(r Run) float64 { return r.TxCPUUS }))),
				fmt.Sprintf("%.2f", median(each(r, func(r Run) float64 { return r.RxCPUUS }))),
				fmt.Sprintf("%.2f", median(each(r, Run.cpu))), ratio,
				fmt.Sprintf("%.0f/%.0f", median(each(r, p50)), median(each(r, p99))),
				fmt.Sprintf("%d of %d", lost, sent))
		}
	}
}

func p99(r Run) float64 {
	if r.LatencyUS == nil {
		return 0
	}
	return r.LatencyUS.P99
}

func printIdle(w io.Writer, f *Figures) {
	if len(f.Raw.Idle) == 0 {
		return
	}
	head(w, "idle: round trip, µs", "variant", "median (range) of the rounds", "ours ÷ it (range)")
	for _, v := range variantOrder(f.Raw.Idle) {
		ratio := "-"
		if v != variantUsher {
			ratio = spread(ratios(f.Raw.Idle[variantUsher], f.Raw.Idle[v]))
		}
		row(w, v, spread(f.Raw.Idle[v]), ratio)
	}
}

func printFanout(w io.Writer, f *Figures) {
	if len(f.Raw.Fanout) == 0 {
		return
	}
	head(w, "fanout: the sender's daemon and link, for each datagram of the stream", "variant", "receivers", "datagrams a second", "CPU µs (range)", "packets")
	for _, v := range variantOrder(f.Raw.Fanout) {
		for _, n := range fanSizes {
			runs := f.Raw.Fanout[v][fmt.Sprint(n)]
			if len(runs) == 0 {
				continue
			}
			row(w, v, fmt.Sprint(n), fmt.Sprintf("%.0f", median(each(runs, func(r FanRun) float64 { return r.Rate }))),
				spread(each(runs, func(r FanRun) float64 { return r.SenderCPUUS })),
				fmt.Sprintf("%.3f", median(each(runs, func(r FanRun) float64 { return r.Packets }))))
		}
	}
}

func printForgery(w io.Writer, f *Figures) {
	if len(f.Raw.Forgery) == 0 {
		return
	}
	head(w, fmt.Sprintf("forgery: %d good packets a second beside forged ones", loadGood.rate),
		"kind", "forged a second", "delivered ÷ offered (range)", "lost by the sink's buffer", "receiver's CPU a packet, µs")
	for _, kind := range slices.Sorted(maps.Keys(f.Raw.Forgery)) {
		runs := f.Raw.Forgery[kind]
		var overflow uint64
		for _, r := range runs {
			overflow += r.Overflow
		}
		row(w, kind, fmt.Sprintf("%.0f", median(each(runs, func(r ForgeryRun) float64 { return r.ForgedRate }))),
			spread(each(runs, func(r ForgeryRun) float64 { return r.Goodput })), fmt.Sprint(overflow),
			fmt.Sprintf("%.2f", median(each(runs, func(r ForgeryRun) float64 { return r.RxCPUUS }))))
	}
}

func printScale(w io.Writer, f *Figures) {
	if len(f.Raw.Scale) == 0 {
		return
	}
	head(w, "scale: cost against the number of policies, each with an association", "policies",
		"both agents' CPU a packet, µs (range)", "both agents idle, ms a second", "an unrelated flow's CPU a datagram, µs (range)", "resident MiB, sender/receiver", "start, s")
	for _, r := range f.Raw.Scale {
		row(w, fmt.Sprint(r.Policies), spread(r.AgentCPUUS), fmt.Sprintf("%.1f", r.IdleCPUMS), spread(r.FlowCPUUS),
			fmt.Sprintf("%.1f/%.1f", r.TxRSSMiB, r.RxRSSMiB), fmt.Sprintf("%.1f", r.StartS))
	}
}
