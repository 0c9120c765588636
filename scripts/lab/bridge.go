package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// DefaultBridge is the bridge that every lab has.
const DefaultBridge = "br0"

// How the bridge plays the switch, in hundredths of a second. A switch asks
// every 125 s and forgets after 260; a test cannot wait for that. IGMPv3 is not
// the kernel's default: with version 2 the hosts fall back and the bridge knows
// groups only, not sources. Response interval and version must be set before
// the first query.
const bridgeSettings = "stp_state 0 forward_delay 0 mcast_snooping 1 mcast_igmp_version 3 mcast_mld_version 2 " +
	"mcast_query_response_interval 100 mcast_query_interval 500 mcast_startup_query_interval 100 " +
	"mcast_membership_interval 1500 mcast_last_member_interval 50"

// AddBridge adds one more bridge to the switch, with IGMPv3 snooping and a
// querier that asks every five seconds. For the first second of its life it
// floods, since it cannot know yet who listens.
func (l *Lab) AddBridge(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%w: bridge %q", ErrName, name)
	}
	return l.swch.batch(
		fmt.Sprintf("link add %s type bridge %s", name, bridgeSettings),
		// On its own, once the response interval is set: the kernel floods for one
		// such interval from here on, and by default it has ten seconds.
		fmt.Sprintf("link set %s type bridge mcast_querier 1", name),
		fmt.Sprintf("link set %s up", name),
	)
}

// Option changes how a host is attached.
type Option func(*attachment)

type attachment struct {
	bridge       string
	mtu          int
	segmentation bool
}

// OnBridge attaches to the named bridge instead of br0.
func OnBridge(name string) Option { return func(a *attachment) { a.bridge = name } }

// MTU sets the MTU of the interface and of its port (1500 if not given).
func MTU(bytes int) Option { return func(a *attachment) { a.mtu = bytes } }

// KeepSegmentation lets batches made by UDP_SEGMENT cross the link as one
// large packet, as veth can and no wire does. Only a benchmark wants that: in
// a capture such a packet cannot be told from a fault.
func KeepSegmentation() Option { return func(a *attachment) { a.segmentation = true } }

// Attach adds an interface named iface with address cidr ("" for none) to the
// host and plugs it into a bridge. The port at the switch is [Host.Port].
func (h *Host) Attach(iface, cidr string, opts ...Option) error {
	a := attachment{bridge: DefaultBridge, mtu: 1500}
	for _, o := range opts {
		o(&a)
	}
	port := h.Port(iface)
	if !validName.MatchString(iface) || len(port) > 15 {
		return fmt.Errorf("%w: interface %q of host %s", ErrName, iface, h.name)
	}
	lines := []string{
		fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %d", port, a.mtu, iface, a.mtu, h.PID()),
		fmt.Sprintf("link set %s master %s", port, a.bridge),
		fmt.Sprintf("link set %s up", port),
	}
	inside := []string{fmt.Sprintf("link set %s up", iface)}
	if !a.segmentation {
		inside = append([]string{fmt.Sprintf("link set %s gso_max_segs 1", iface)}, inside...)
	}
	if cidr != "" {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("lab: address of host %s: %w", h.name, err)
		}
		if !h.addr.IsValid() {
			h.addr = prefix.Addr()
		}
		inside = append(inside, fmt.Sprintf("addr add %s dev %s", cidr, iface))
	}
	if err := h.lab.swch.batch(lines...); err != nil {
		return err
	}
	return h.batch(inside...)
}

// Port is the name of the switch's end of the host's interface iface (p-alice
// for eth0, p1-alice for eth1): what a test sets down to pull the cable.
func (h *Host) Port(iface string) string {
	return "p" + strings.TrimPrefix(strings.TrimPrefix(iface, "eth"), "0") + "-" + h.name
}

// batch runs lines of ip(8) inside the host in one process.
func (h *Host) batch(lines ...string) error {
	cmd := h.Command(context.Background(), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if _, err := run(cmd); err != nil {
		return fmt.Errorf("in %s: %w", h.name, err)
	}
	return nil
}
