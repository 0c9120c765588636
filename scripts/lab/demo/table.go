package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// printTable writes host by host what was counted, then the claims.
func printTable(out io.Writer, f *Figures) {
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "host\tframes sent\tdecoded\tpackets\tlost\tkey changes\tfirst packet\tlast packet")
	for _, name := range receivers {
		r := f.Receivers[name]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%.2f s\n",
			name, r.FramesSent, r.FramesDecoded, r.PacketsReceived, r.PacketsLost, r.KeyChanges, r.FirstPacketS, r.LastPacketS)
	}
	fmt.Fprintf(table, "mallory\t\t0\t%d\t\t\t\t\n", f.Mallory.CiphertextReceived)
	if err := table.Flush(); err != nil {
		fmt.Fprintln(out, err)
	}
	fmt.Fprintln(out)
	for _, claim := range f.Claims {
		mark := "ok    "
		if !claim.Held {
			mark = "FAILED"
		}
		fmt.Fprintf(out, "%s %s\n       %s\n", mark, claim.Text, claim.Seen)
	}
	fmt.Fprintln(out)
}
