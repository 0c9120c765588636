// Command bench measures what Usher's data plane costs, and, with --peers, what
// other VPN daemons in user space cost on the same link in the same run.
//
//	bench --bin DIR [--peers] [--json FILE] [--out DIR] [--rounds N] [--only PART,…]
//
// scripts/bench builds what it needs and starts it. Each part has a lab of its
// own: hosts on one bridge whose agents are run as users run them, with manual
// keys, guard, policies and counters. What loads them, and counts, is usher-bench.
// Processor time is that of the daemons, as the scheduler accounts it; what the
// generator and the sink take is not in it, but for the work of the network that
// the kernel does on the account of whoever runs.
//
// A figure that this version or this machine cannot give is null, with the
// reason beside it. The command must never print a number that it did not
// measure, nor touch anything outside its labs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"usher/scripts/lab"
)

// longest is when a run that hangs is given up.
const longest = 15 * time.Minute

// options are the command line.
type options struct {
	json   string   // file for the figures, "" for none
	out    string   // folder for logs
	bin    string   // folder with the programs
	peers  bool     // measure other VPNs, too
	rounds int      // of each comparison
	only   []string // parts to run; nil: all
}

// part is one measurement, with a lab of its own.
type part struct {
	name    string
	fields  []string // the figures that it gives
	measure func(context.Context, *bench) error
}

// parts in the order in which they run, shortest first: what a busy machine
// spoils is seen early.
var parts = []part{
	{"idle", []string{"idle_rtt_ratio_to_best_peer"}, measureIdle},
	{"paced", []string{"paced_cpu_ratio", "paced_even_cpu_ratio", "lowrate_cpu_ratio", "paced_added_latency_us"}, measurePaced},
	{"bulk", []string{"bulk_cpu_ratio_to_null"}, measureBulk},
	{"tcp", []string{"tcp_ratio_to_wireguard_go"}, measureTCP},
	{"fanout", []string{"fanout64_cpu_ratio", "fanout64_packets_ratio"}, measureFanout},
	{"forgery", []string{"goodput_ratio_under_forgery"}, measureForgery},
	{"scale", []string{"rss_mib_1000_sas", "cost_ratio_10000_sas"}, measureScale},
	{"rollover", []string{"rollover_lost", "rollover_duplicated", "rollover_reordered"}, measureRollover},
}

func main() {
	var o options
	var only string
	flag.StringVar(&o.json, "json", "", "write the figures to `FILE`")
	flag.StringVar(&o.out, "out", filepath.Join(os.TempDir(), "usher-bench"), "folder for logs")
	flag.StringVar(&o.bin, "bin", "", "folder with the programs, as scripts/bench builds it")
	flag.BoolVar(&o.peers, "peers", false, "measure wireguard-go, nebula and openvpn beside")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each comparison")
	flag.StringVar(&only, "only", "", "run these parts alone, by comma: "+strings.Join(partNames(), ", "))
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, o)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything was removed")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// bench is one run.
type bench struct {
	options
	figures *Figures
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// run measures every part. One that fails leaves its figures null with the
// reason, and the others go on; the error then says so at the end.
func run(parent context.Context, o options) error {
	for _, name := range o.only {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	if o.bin == "" || o.rounds < 1 || flag.NArg() > 0 {
		return errors.New("start it by scripts/bench, which builds what it needs")
	}
	if missing := lab.Missing(); missing != "" {
		return fmt.Errorf("this machine lacks %s", missing)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(parent, longest)
	defer cancel()
	b := &bench{options: o, figures: newFigures(o)}
	var failed []string
	for _, p := range parts {
		if o.only != nil && !slices.Contains(o.only, p.name) {
			b.figures.explain("not asked for (--only)", p.fields...)
			continue
		}
		if ctx.Err() != nil {
			b.figures.explain("the run was ended before its turn", p.fields...)
			continue
		}
		b.say("measures %s", p.name)
		begin := time.Now()
		if err := p.measure(ctx, b); err != nil {
			b.say("%s failed: %v", p.name, err)
			b.figures.explain("failed: "+err.Error(), p.fields...)
			failed = append(failed, p.name)
		}
		b.figures.Seconds[p.name] = time.Since(begin).Seconds()
	}
	b.figures.finish()
	printTable(os.Stdout, b.figures)
	if o.json != "" {
		if err := b.figures.write(o.json); err != nil {
			return err
		}
	}
	if parent.Err() == nil && len(failed) > 0 {
		return fmt.Errorf("not measured: %s (logs: %s)", strings.Join(failed, ", "), o.out)
	}
	return nil
}

// inLab runs a measurement in a lab of its own, which is gone when it returns.
func inLab(measure func(*lab.Lab) error) (err error) {
	l, err := lab.New("bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return measure(l)
}
