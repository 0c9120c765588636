package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/ipv4"

	"usher/scripts/lab"
)

// fanReceivers is how many hosts listen in the larger case.
const fanReceivers = 64

var loadFan = load{name: "fanout", rate: 2000, burst: 1, size: "1200", duration: 2500 * time.Millisecond}

// FanRun is one stream to some receivers.
type FanRun struct {
	SenderCPUUS float64 `json:"sender_cpu_us"` // of the sender's daemon, for each datagram of the stream
	Packets     float64 `json:"packets"`       // on the sender's link, for each datagram of the stream
	Sent        uint64  `json:"sent"`          // datagrams of the stream
	Rate        float64 `json:"rate"`          // datagrams of the stream a second
}

// fan is a sender and many hosts that join its group.
type fan struct {
	pair
	lab   *lab.Lab
	hosts []*lab.Host
	joins []net.PacketConn // of all hosts but the first
}

// measureFanout measures what the sender pays for 64 receivers instead of one.
// Receivers are hosts that joined: what they do with what they get is not the
// sender's. The switch's copies are made on the other processor, as they would
// be in a switch; the kernel charges them to the sender otherwise.
func measureFanout(ctx context.Context, b *bench) error {
	fields := []string{"fanout64_cpu_ratio", "fanout64_packets_ratio"}
	if runtime.NumCPU() < 2 {
		b.figures.explain("needs two processors: the switch's copies must not be on the sender's", fields...)
		return nil
	}
	err := inLab(func(l *lab.Lab) error {
		f := &fan{pair: pair{b: b, variant: variantUsher}, lab: l}
		defer f.closeFan()
		if err := f.open(ctx); err != nil {
			return err
		}
		for round := range b.rounds {
			for _, n := range []int{1, fanReceivers} {
				if err := f.joined(ctx, n); err != nil {
					return err
				}
				r, err := f.run(ctx)
				if err != nil {
					return fmt.Errorf("%d receivers, round %d: %w", n, round+1, err)
				}
				b.figures.fan(variantUsher, n, *r)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	runs := b.figures.Raw.Fanout[variantUsher]
	one, many := runs["1"], runs[strconv.Itoa(fanReceivers)]
	cpu := func(r FanRun) float64 { return r.SenderCPUUS }
	packets := func(r FanRun) float64 { return r.Packets }
	b.figures.Fanout64CPURatio = pointer(median(ratios(each(many, cpu), each(one, cpu))))
	b.figures.Fanout64PacketsRatio = pointer(median(ratios(each(many, packets), each(one, packets))))
	if !b.peers {
		return nil
	}
	return measurePeerFanout(ctx, b)
}

// fan notes a run.
func (f *Figures) fan(variant string, receivers int, r FanRun) {
	if f.Raw.Fanout[variant] == nil {
		f.Raw.Fanout[variant] = map[string][]FanRun{}
	}
	n := strconv.Itoa(receivers)
	f.Raw.Fanout[variant][n] = append(f.Raw.Fanout[variant][n], r)
}

// open lays out the hosts. Their links cut batches, so that the sender's
// interface counts packets as a wire would see them.
func (f *fan) open(ctx context.Context) (err error) {
	if f.tx, err = f.lab.Host("a", "10.77.0.1/16"); err != nil {
		return err
	}
	if err := steerCopies(ctx, f.lab, f.tx); err != nil {
		return err
	}
	if f.rx, err = f.lab.Host("b", "10.77.0.2/16"); err != nil {
		return err
	}
	for i := range fanReceivers - 1 {
		h, err := f.lab.Host(fmt.Sprintf("r%d", i), fmt.Sprintf("10.77.1.%d/16", i+1))
		if err != nil {
			return err
		}
		f.hosts = append(f.hosts, h)
	}
	if err := f.openUsher(ctx, usherConfig{pin: "0"}); err != nil {
		return err
	}
	return f.warm(ctx)
}

// steerCopies has the switch handle what comes from a host on the second
// processor (receive packet steering, a mask of processors).
func steerCopies(ctx context.Context, l *lab.Lab, from *lab.Host) error {
	file := fmt.Sprintf("/sys/class/net/%s/queues/rx-0/rps_cpus", from.Port("eth0"))
	_, err := l.Switch().Run(ctx, "sh", "-c", "echo 2 > "+file)
	return err
}

func (f *fan) closeFan() {
	f.leave()
	f.close()
}

func (f *fan) leave() {
	for _, c := range f.joins {
		c.Close()
	}
	f.joins = nil
}

// joined brings it about that so many ports of the switch get the stream.
func (f *fan) joined(parent context.Context, n int) error {
	if n > 1 && len(f.joins) == 0 {
		for _, h := range f.hosts {
			if err := f.join(h); err != nil {
				return err
			}
		}
	}
	if n == 1 {
		f.leave()
	}
	ctx, cancel := context.WithTimeout(parent, 30*time.Second)
	defer cancel()
	return lab.WaitFor(ctx, fmt.Sprintf("%d ports in the switch's table", n), func() error {
		table, err := f.lab.Switch().Run(ctx, "bridge", "mdb", "show")
		if err != nil {
			return err
		}
		// One line a port and source; the line without a source is the group.
		ports := 0
		for line := range strings.Lines(table) {
			if strings.Contains(line, "grp "+forwardGroup.Addr().String()+" src "+f.tx.Addr().String()+" ") {
				ports++
			}
		}
		if ports != n {
			return fmt.Errorf("%d are", ports)
		}
		return nil
	})
}

// join has a host join the stream, on a port where nobody listens.
func (f *fan) join(h *lab.Host) error {
	return h.Do(func() error {
		c, err := net.ListenPacket("udp4", ":0")
		if err != nil {
			return err
		}
		f.joins = append(f.joins, c)
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return ipv4.NewPacketConn(c).JoinSourceSpecificGroup(eth0,
			&net.UDPAddr{IP: forwardGroup.Addr().AsSlice()}, &net.UDPAddr{IP: f.tx.Addr().AsSlice()})
	})
}

// run sends the stream, generator and agent on the first processor.
func (p *pair) run(parent context.Context) (*FanRun, error) {
	ctx, cancel := context.WithTimeout(parent, loadFan.duration+20*time.Second)
	defer cancel()
	return p.fanStream(ctx, []netip.AddrPort{p.to}, loadFan.rate)
}

// fanStream sends to each of the targets at a rate, and says what one datagram
// of the stream took.
func (p *pair) fanStream(ctx context.Context, targets []netip.AddrPort, rate int) (*FanRun, error) {
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	packetsBefore, err := sentPackets(p.tx)
	if err != nil {
		return nil, err
	}
	args := []string{"--cpu-list", "0", p.b.tool("usher-bench"), "send", "--no-end",
		"--rate", strconv.Itoa(rate), "--size", loadFan.size, "--for", loadFan.duration.String()}
	for _, to := range targets {
		args = append(args, "--to", to.String())
	}
	s, err := answer[sent](ctx, p.tx, "taskset", args...)
	if err != nil {
		return nil, err
	}
	if s.Refused > 0 {
		return nil, fmt.Errorf("%d datagrams were refused: %s", s.Refused, s.Refusal)
	}
	after, err := p.cpu()
	if err != nil {
		return nil, err
	}
	packetsAfter, err := sentPackets(p.tx)
	if err != nil {
		return nil, err
	}
	one := float64(s.Sent) / float64(len(targets)) // datagrams of the stream
	return &FanRun{
		SenderCPUUS: float64((after.tx - before.tx).Nanoseconds()) / 1000 / one,
		Packets:     float64(packetsAfter-packetsBefore) / one,
		Sent:        uint64(one),
		Rate:        s.Rate / float64(len(targets)),
	}, nil
}

// sentPackets is what eth0 of a host has sent so far.
func sentPackets(h *lab.Host) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", h.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, counters, _ := strings.Cut(strings.TrimSpace(line), ":")
		if words := strings.Fields(counters); name == "eth0" && len(words) > 9 {
			return strconv.ParseUint(words[9], 10, 64)
		}
	}
	return 0, errors.New("eth0 has no counters")
}
