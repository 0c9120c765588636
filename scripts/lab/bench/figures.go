package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"time"
)

// Figures are what a run measured. Ratios are ours ÷ the other's: less is
// better, but for goodput. A figure that is null has its reason in Why.
type Figures struct {
	PacedCPURatio            *float64 `json:"paced_cpu_ratio"`      // bursts of 42 a millisecond, cheapest peer
	PacedEvenCPURatio        *float64 `json:"paced_even_cpu_ratio"` // one every 23.8 µs, cheapest peer
	LowrateCPURatio          *float64 `json:"lowrate_cpu_ratio"`    // 500 a second, cheapest peer
	PacedAddedLatencyUS      *float64 `json:"paced_added_latency_us"`
	TCPRatioToWireguardGo    *float64 `json:"tcp_ratio_to_wireguard_go"`
	BulkCPURatioToNull       *float64 `json:"bulk_cpu_ratio_to_null"`
	Fanout64CPURatio         *float64 `json:"fanout64_cpu_ratio"`     // 64 receivers ÷ one
	Fanout64PacketsRatio     *float64 `json:"fanout64_packets_ratio"` // 64 receivers ÷ one
	IdleRTTRatioToBestPeer   *float64 `json:"idle_rtt_ratio_to_best_peer"`
	RolloverLost             *uint64  `json:"rollover_lost"`
	RolloverDuplicated       *uint64  `json:"rollover_duplicated"`
	RolloverReordered        *uint64  `json:"rollover_reordered"`
	RSSMiB1000SAs            *float64 `json:"rss_mib_1000_sas"`
	CostRatio10000SAs        *float64 `json:"cost_ratio_10000_sas"`        // 10,000 ÷ 1, the worse of agent and unrelated flow
	GoodputRatioUnderForgery *float64 `json:"goodput_ratio_under_forgery"` // delivered ÷ offered, worst kind

	// Why has, for each figure that is null, the reason.
	Why map[string]string `json:"why"`

	Machine Machine            `json:"machine"`
	Rounds  int                `json:"rounds"`
	Seconds map[string]float64 `json:"seconds"` // how long each part took
	Raw     Raw                `json:"raw"`
}

// Machine is where it was measured.
type Machine struct {
	CPUs       int     `json:"cpus"`
	CPU        string  `json:"cpu"`
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	LoadBefore float64 `json:"load_before"` // one-minute average when the run began
	Noisy      bool    `json:"noisy"`       // others were at work: do not trust the figures
	When       string  `json:"when"`
}

// Raw are the measurements that the figures are made from.
type Raw struct {
	Paced    map[string]map[string][]Run    `json:"paced"`    // load → variant → a run for each round
	Idle     map[string][]float64           `json:"idle"`     // variant → median round trip of each round, µs
	Bulk     map[string][]Run               `json:"bulk"`     // transform → a run for each round
	Fanout   map[string]map[string][]FanRun `json:"fanout"`   // variant → receivers → a run for each round
	Forgery  map[string][]ForgeryRun        `json:"forgery"`  // kind → a run for each round
	Scale    []ScaleRow                     `json:"scale"`    // by number of policies and associations
	Rollover *RolloverRun                   `json:"rollover"` // null: did not run
}

// busy is the load average from which on figures are noisy.
const busy = 0.7

func newFigures(o options) *Figures {
	f := &Figures{
		Why: map[string]string{}, Rounds: o.rounds, Seconds: map[string]float64{},
		Raw: Raw{
			Paced: map[string]map[string][]Run{}, Idle: map[string][]float64{}, Bulk: map[string][]Run{},
			Fanout: map[string]map[string][]FanRun{}, Forgery: map[string][]ForgeryRun{}, Scale: []ScaleRow{},
		},
		Machine: Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), When: time.Now().UTC().Format(time.RFC3339)},
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(text), &f.Machine.LoadBefore) //nolint:errcheck // 0 if the kernel does not tell
	}
	f.Machine.Noisy = f.Machine.LoadBefore > busy
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		f.Machine.Kernel = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				f.Machine.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	return f
}

// explain gives figures that are null a reason, if they have none yet.
func (f *Figures) explain(why string, fields ...string) {
	for _, field := range fields {
		if f.Why[field] == "" {
			f.Why[field] = why
		}
	}
}

// finish makes figures and reasons agree: a reason for each that is null, and
// none beside a number.
func (f *Figures) finish() {
	v := reflect.ValueOf(f).Elem()
	for i := range v.NumField() {
		field := v.Field(i)
		if field.Kind() != reflect.Pointer {
			continue
		}
		name := v.Type().Field(i).Tag.Get("json")
		if !field.IsNil() {
			delete(f.Why, name)
			continue
		}
		f.explain("was not measured", name)
	}
}

// value is a figure by its name in the JSON, and "null" with the reason.
func (f *Figures) value(name string) string {
	v := reflect.ValueOf(f).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("json") != name {
			continue
		}
		if v.Field(i).IsNil() {
			return "null: " + f.Why[name]
		}
		switch n := v.Field(i).Elem().Interface().(type) {
		case float64:
			return fmt.Sprintf("%.3f", n)
		default:
			return fmt.Sprint(n)
		}
	}
	return "null: there is no such figure"
}

func (f *Figures) write(file string) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	return nil
}

func pointer[T any](v T) *T { return &v }
