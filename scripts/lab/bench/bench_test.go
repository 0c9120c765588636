package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/scripts/lab"
)

func TestStatistics(t *testing.T) {
	if m := median([]float64{5, 1, 3}); m != 3 {
		t.Error(m)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Error(m)
	}
	if m := median(nil); m != 0 {
		t.Error(m)
	}
	// A round that was disturbed for both is no outlier of the ratio.
	if r := ratios([]float64{1, 10, 1}, []float64{2, 20, 2}); median(r) != .5 || len(r) != 3 {
		t.Error(r)
	}
	if c := cheapest(map[string][]float64{"a": {3, 3, 3}, "b": {1, 2, 9}, "c": nil}); c != "b" {
		t.Error(c)
	}
}

// The names are the contract with whoever reads the JSON.
var names = []string{
	"paced_cpu_ratio", "paced_even_cpu_ratio", "lowrate_cpu_ratio", "paced_added_latency_us", "tcp_ratio_to_wireguard_go",
	"bulk_cpu_ratio_to_null", "fanout64_cpu_ratio", "fanout64_packets_ratio", "idle_rtt_ratio_to_best_peer",
	"rollover_lost", "rollover_duplicated", "rollover_reordered", "rss_mib_1000_sas", "cost_ratio_10000_sas", "goodput_ratio_under_forgery",
}

// Each figure is a number, or null with a reason.
func TestFiguresAreNumbersOrExplained(t *testing.T) {
	f := newFigures(options{rounds: 5})
	f.PacedCPURatio = pointer(0.3)
	f.RolloverLost = pointer(uint64(0))
	f.explain("unicast flows are not in this version", "tcp_ratio_to_wireguard_go")
	f.explain("a later reason", "tcp_ratio_to_wireguard_go", "paced_cpu_ratio")
	f.finish()
	file := filepath.Join(t.TempDir(), "figures.json")
	if err := f.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	why := got["why"].(map[string]any)
	for _, name := range names {
		value, there := got[name]
		_, explained := why[name]
		if !there || (value == nil) != explained {
			t.Errorf("%s: there %v, %v, explained %v", name, there, value, explained)
		}
	}
	if got["rollover_lost"] != 0.0 || why["tcp_ratio_to_wireguard_go"] != "unicast flows are not in this version" || why["rss_mib_1000_sas"] != "was not measured" {
		t.Errorf("%s", text)
	}
	if v := f.value("paced_cpu_ratio"); v != "0.300" {
		t.Error(v)
	}
	if v := f.value("rss_mib_1000_sas"); !strings.HasPrefix(v, "null: ") {
		t.Error(v)
	}
	for _, name := range []string{"raw", "machine", "rounds"} {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
}

// Every figure belongs to a part, once.
func TestPartsGiveEveryFigure(t *testing.T) {
	var given []string
	for _, p := range parts {
		given = append(given, p.fields...)
	}
	slices.Sort(given)
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(given, want) {
		t.Errorf("the parts give %v, want %v", given, want)
	}
	v, pointers := reflect.TypeFor[Figures](), 0
	for i := range v.NumField() {
		if v.Field(i).Type.Kind() == reflect.Pointer {
			pointers++
		}
	}
	if pointers != len(names) {
		t.Errorf("%d figures, %d names", pointers, len(names))
	}
}

// The ratio is against the peer that costs least, round by round.
func TestRatioToCheapest(t *testing.T) {
	b := &bench{figures: newFigures(options{})}
	run := func(costs ...float64) (runs []Run) {
		for _, c := range costs {
			runs = append(runs, Run{TxCPUUS: c / 2, RxCPUUS: c / 2})
		}
		return runs
	}
	runs := map[string][]Run{variantUsher: run(4, 8, 4), variantPlain: run(0, 0, 0), variantNebula: run(10, 20, 10), variantOpenVPN: run(100, 5, 100)}
	if r := b.ratioToCheapest(runs); r == nil || *r != .4 {
		t.Errorf("%v", r)
	}
	if r := b.ratioToCheapest(map[string][]Run{variantUsher: run(4), variantPlain: run(0)}); r != nil {
		t.Errorf("%v without a peer", *r)
	}
}

// A table of nothing is no crash, and says what is null.
func TestTable(t *testing.T) {
	f := newFigures(options{rounds: 1})
	f.finish()
	var out bytes.Buffer
	printTable(&out, f)
	for _, name := range names {
		if !strings.Contains(out.String(), name) {
			t.Errorf("%s is missing", name)
		}
	}
	f.Raw.Paced[loadBursts.name] = map[string][]Run{variantUsher: {{TxCPUUS: 1}}, variantNebula: {{TxCPUUS: 4}}}
	out.Reset()
	printTable(&out, f)
	if !strings.Contains(out.String(), "0.25 (0.25-0.25)") {
		t.Error(out.String())
	}
}

// Processor time and memory are read as the kernel gives them, and what ends is
// noticed at once.
func TestProcess(t *testing.T) {
	l := lab.ForTest(t)
	h := l.TestHost(t, "h", "10.77.0.1/24")
	busy, err := start(t.Context(), h, "sh", "-c", "echo ready >&2; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; sleep 100")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.stop()
	if err := busy.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := lab.Within(20*time.Second, "processor time", func() error {
		d, err := busy.cpu()
		if err == nil && d < 10*time.Millisecond {
			err = lab.ErrTimeout
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if m, err := busy.rss(); err != nil || m <= 0 || m > 100 {
		t.Errorf("%v MiB, %v", m, err)
	}
	failing, err := start(t.Context(), h, "sh", "-c", "echo no such thing >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	ctx, release := whileAlive(t.Context(), []*process{failing})
	defer release()
	err = awaited(ctx, "nothing", func() error { return context.Canceled })
	if err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v", err)
	}
	if err := failing.ready(t.Context()); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v", err)
	}
}
