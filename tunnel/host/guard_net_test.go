package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"usher/scripts/lab"
	"usher/tunnel/host"
)

var mallory = netip.MustParseAddr("10.77.0.66")

// program is an ordinary receiver: joined on the real interface, bound to a
// port on all addresses, as players are. Being unbound to the group it hears
// unicast too, by which a test tells it that all before has been through.
func program(t *testing.T, h *lab.Host, port int) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	inside(t, h, func() error {
		udp, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		if err != nil {
			return err
		}
		conn = udp
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		raw, err := udp.SyscallConn()
		if err != nil {
			return err
		}
		var join error
		err = raw.Control(func(fd uintptr) {
			join = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(ifi.Index)})
		})
		return errors.Join(err, join)
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// delivered is what the program gets of cleartext injected by mallory.
func (n network) delivered(t *testing.T, conn net.PacketConn, port uint16, packets ...[]byte) []string {
	t.Helper()
	inject(t, n.mallory, append(packets, datagram(mallory, sender, port, "end"))...)
	return drain(t, conn)
}

// forgeries are cleartext packets to the group: under another host's source,
// under mallory's own, and in fragments.
func forgeries(port uint16) [][]byte {
	other := netip.MustParseAddr("10.77.0.12")
	whole := [][]byte{datagram(other, group, port, "other"), datagram(mallory, group, port, "own")}
	return append(whole, fragments(datagram(other, group, port, "fragment"+strings.Repeat("x", 2000)))...)
}

// TestGuardRefusesCleartext is the guard alone: no agent and no usher0.
func TestGuardRefusesCleartext(t *testing.T) {
	n := newNetwork(t)
	inside(t, n.alice, func() error { return sendByEth0(5004) }) // leaves, as long as there is no guard
	conn := program(t, n.alice, 5004)
	if got := n.delivered(t, conn, 5004, forgeries(5004)...); len(got) != 3 {
		t.Fatalf("without a guard the program gets %q: the test cannot show anything", got)
	}
	inside(t, n.alice, func() error { return host.Guard(t.Context(), plan(flow())) })
	if got := n.delivered(t, conn, 5004, forgeries(5004)...); len(got) != 0 {
		t.Errorf("the program got %q from the wire in the clear", got)
	}
	inside(t, n.alice, func() error {
		if err := sendByEth0(5004); !errors.Is(err, unix.EPERM) {
			t.Errorf("a program that names eth0 sends in the clear: %v", err)
		}
		if err := sendByEth0(5006); err != nil {
			t.Errorf("another port of the group is refused: %v", err)
		}
		status, err := host.ReadGuard()
		if err != nil {
			return err
		}
		// Of the datagram in fragments only the first is refused.
		if status.RefusedIn.Packets != 3 || status.RefusedOut.Packets != 1 || status.RefusedOut.Bytes == 0 || status.Elements != 1 {
			t.Errorf("guard: %+v", status)
		}
		if text := strings.Join(status.Advice(), "\n"); !strings.Contains(text, "1 packets of a protected") || !strings.Contains(text, "3 packets in the clear") {
			t.Errorf("advice: %s", text)
		}
		return nil
	})
}

func TestGuardLeavesOtherTrafficAlone(t *testing.T) {
	n := newNetwork(t)
	inside(t, n.alice, func() error { return host.Guard(t.Context(), plan(flow())) })
	other := program(t, n.alice, 5006)
	if got := n.delivered(t, other, 5006, forgeries(5006)...); len(got) != 3 {
		t.Errorf("of three datagrams to another port the program got %q", got)
	}
}

// TestGuardOfRanges is a flow of many ports, with the ciphertext's among them.
func TestGuardOfRanges(t *testing.T) {
	n := newNetwork(t)
	ranged, any := flow(), flow()
	ranged.FirstPort, ranged.LastPort = 5000, 5010
	any.Destination, any.FirstPort, any.LastPort = netip.MustParseAddr("232.1.2.4"), 0, 65535
	overlap := ranged
	overlap.FirstPort, overlap.LastPort = 5005, 5020
	inside(t, n.alice, func() error { return host.Guard(t.Context(), plan(ranged, any, overlap, flow())) })
	inside(t, n.alice, func() error {
		for port, refused := range map[uint16]bool{4999: false, 5000: true, 5010: true, 5020: true, 5021: false} {
			if err := sendByEth0(port); errors.Is(err, unix.EPERM) != refused {
				t.Errorf("port %d: %v, refused should be %v", port, err, refused)
			}
		}
		for port, refused := range map[int]bool{1: true, 4499: true, host.DefaultPort: false, 4501: true, 65535: true} {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: sender.AsSlice()}, &net.UDPAddr{IP: any.Destination.AsSlice(), Port: port})
			if err != nil {
				return err
			}
			if _, err := conn.Write([]byte("x")); errors.Is(err, unix.EPERM) != refused {
				t.Errorf("any port, port %d: %v, refused should be %v", port, err, refused)
			}
			if err := conn.Close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestGuardTakesLoopedCopyOnly: a local viewer's copy of what the host itself
// sends comes in by the real interface where the sender is not steered by a
// route. Only the kernel can make one: the same packet from the wire is not
// delivered.
func TestGuardTakesLoopedCopyOnly(t *testing.T) {
	n := newNetwork(t)
	inside(t, n.alice, func() error { return host.Guard(t.Context(), plan(flow())) })
	run(t, n.alice, "nft flush chain inet usher out") // let the program send by eth0
	viewer := program(t, n.alice, 5004)
	inside(t, n.alice, func() error { return sendByEth0(5004) })
	forged := datagram(sender, group, 5004, "as alice")
	if got := n.delivered(t, viewer, 5004, forged); len(got) != 1 || got[0] != "clear" {
		t.Errorf("the viewer got %q, want its host's own packet only", got)
	}
}

// TestGuardHoldsManyFlows: one message to the kernel holds fewer elements.
func TestGuardHoldsManyFlows(t *testing.T) {
	n := newNetwork(t)
	var flows []host.Flow
	for i := range 6000 {
		f := flow()
		f.Destination = netip.AddrFrom4([4]byte{232, 9, byte(i >> 8), byte(i)})
		if i%3 == 0 {
			f.LastPort = 5010
		}
		flows = append(flows, f)
	}
	inside(t, n.alice, func() error {
		for _, some := range [][]host.Flow{flows, flows[1500:4500], flows, nil} {
			if err := host.Guard(t.Context(), plan(some...)); err != nil {
				return err
			}
			status, err := host.ReadGuard()
			if err != nil {
				return err
			}
			if status.Elements != len(some) {
				t.Errorf("%d flows: the guard holds %d", len(some), status.Elements)
			}
		}
		return nil
	})
	out := run(t, n.alice, "nft list ruleset | grep -c 232.9. || true")
	if strings.TrimSpace(out) != "0" {
		t.Errorf("an empty plan leaves %s lines of elements", out)
	}
}

// TestGuardHasNoGap sends without pause while plans change around the flow.
func TestGuardHasNoGap(t *testing.T) {
	for _, c := range []struct {
		name    string
		tun     func(i int) string
		counted bool // every refused packet is in the counter
	}{
		{"elements change", func(int) string { return "" }, true},
		// Another name of the tunnel means another table altogether; what is
		// refused between reading the old counters and the change is not counted.
		{"table is replaced", func(i int) string { return fmt.Sprintf("usher%d", i) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			inside(t, n.alice, func() error { return host.Guard(t.Context(), plan(flow())) })
			stop, leaked := make(chan struct{}), make(chan error, 1)
			sent := 0
			go func() {
				leaked <- n.alice.Do(func() error {
					for {
						select {
						case <-stop:
							return nil
						default:
						}
						sent++
						if err := sendByEth0(5004); !errors.Is(err, unix.EPERM) {
							return fmt.Errorf("packet %d left in the clear: %w", sent, err)
						}
					}
				})
			}()
			inside(t, n.alice, func() error {
				for i := range 30 {
					other := flow()
					other.Destination = netip.AddrFrom4([4]byte{232, 7, 7, byte(i + 1)})
					p := plan(flow(), other)
					p.TUN = c.tun(i)
					if err := host.Guard(t.Context(), p); err != nil {
						return err
					}
				}
				return nil
			})
			close(stop)
			if err := <-leaked; err != nil {
				t.Error(err)
			}
			inside(t, n.alice, func() error {
				status, err := host.ReadGuard()
				if got := status.RefusedOut.Packets; got > uint64(sent) || got == 0 || c.counted && got != uint64(sent) {
					t.Errorf("%d packets were refused, the counter says %d", sent, got)
				}
				return err
			})
		})
	}
}

const foreignTables = `
table inet filter { chain input { type filter hook input priority 0; policy accept; udp dport 5004 counter accept; }
}
table ip nat { chain DOCKER { ip daddr 10.77.0.0/24 counter return; }
}
table ip usher { set mine { type ipv4_addr; elements = { 232.1.2.3 } }
}
`

func TestForeignTablesStayUntouched(t *testing.T) {
	n := newNetwork(t)
	run(t, n.alice, "nft -f - <<'END'\n"+foreignTables+"END")
	before := run(t, n.alice, "nft -a list ruleset")
	makeTUN(t, n.alice)
	inside(t, n.alice, func() error { return host.Apply(t.Context(), plan(flow())) })
	with := run(t, n.alice, "nft -a list ruleset")
	if !strings.Contains(with, "table inet usher") || !strings.HasPrefix(with, strings.TrimSpace(before)) {
		t.Errorf("the ruleset was\n%s\nand is\n%s", before, with)
	}
	inside(t, n.alice, func() error { return host.Down("") })
	if after := run(t, n.alice, "nft -a list ruleset"); after != before {
		t.Errorf("the ruleset was\n%s\nand is\n%s", before, after)
	}
}
