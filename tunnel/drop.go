package tunnel

// Reason is why a packet did not get through. The list is closed: each packet
// that enters either loop is passed on or counted under exactly one of these.
type Reason uint8

// The reasons, in the order in which a packet may meet them. What each means
// to a user is in the table below.
const (
	NotIP              Reason = iota // both ways: neither IPv4 nor IPv6
	Malformed                        // both ways: selector data that makes no selector
	IPv6                             // both ways: not in this version
	Fragment                         // both ways: not in this version
	IGMP                             // outbound: the kernel's membership reports
	MLD                              // outbound: the same for IPv6
	RouterSolicitation               // outbound: the kernel looks for IPv6 routers
	NoSelector                       // outbound: no policy names it
	Discarded                        // both ways: a policy says discard
	NoSA                             // outbound: policy, but no key
	Exhausted                        // outbound: the key's counter or quota has ended
	TooBig                           // outbound: larger than the real interface takes
	SendRefused                      // outbound: the network refused it
	Keepalive                        // inbound: RFC 3948 §2.3, no harm
	Short                            // inbound: too short to be ESP
	UnknownSPI                       // inbound: no association
	Expired                          // inbound: the association's time is over
	ReplaySeen                       // inbound: the same counter again
	ReplayOld                        // inbound: older than the window
	ReplayJump                       // inbound: a counter too far ahead
	TooManySenders                   // inbound: no room for another sender's window
	BadICV                           // inbound: not authentic
	BadPadding                       // inbound: authentic, but not as RFC 4303 pads
	Dummy                            // inbound: RFC 4303 §2.6, no harm
	NextHeader                       // inbound: neither IPv4 nor IPv6 inside
	SelectorMismatch                 // inbound: inner addresses that the association does not cover
	Congestion                       // inbound: RFC 6040: marked CE, and the sender does not know ECN
	DeviceRefused                    // inbound: the host did not take it

	reasonCount
)

// reasons holds for each Reason its name in counters and JSON, and what
// `usher status` says about it: what it is, and what to do where something is
// to be done.
var reasons = [reasonCount]struct{ name, doc string }{
	NotIP:              {"not_ip", "not an IP packet"},
	Malformed:          {"malformed", "headers that contradict the packet's length: the sending program or an offload is broken"},
	IPv6:               {"ipv6", "IPv6, which is not in this version"},
	Fragment:           {"fragment", "IP fragments, which are not in this version: send datagrams that fit the MTU of usher0"},
	IGMP:               {"igmp", "the kernel's own group reports on usher0: normal"},
	MLD:                {"mld", "the kernel's own IPv6 group reports on usher0: normal"},
	RouterSolicitation: {"router_solicitation", "the kernel looks for IPv6 routers on usher0: normal"},
	NoSelector:         {"no_selector", "went to usher0, but belongs to no event of a held ticket: check the program's destination address and port"},
	Discarded:          {"discarded", "a policy says discard"},
	NoSA:               {"no_sa", "belongs to an event, but there is no key: join it, or wait for its start (usher status, usher events)"},
	Exhausted:          {"exhausted", "the key's counter or quota is used up: nothing is sent until the next key"},
	TooBig:             {"too_big", "larger than the real interface takes: lower the program's datagram size"},
	SendRefused:        {"send_refused", "the network refused the packet: check the real interface, its address and its routes"},
	Keepalive:          {"keepalive", "NAT keepalives: normal"},
	Short:              {"short", "datagrams on the ESP port that are too short for ESP: something else sends there"},
	UnknownSPI:         {"unknown_spi", "encrypted under a key that this host does not hold: normal before the first key and for groups of others"},
	Expired:            {"expired", "encrypted under a key whose time is over: a sender's clock is behind, or old packets are played back"},
	ReplaySeen:         {"replay_seen", "packets that came twice: the network doubles, or somebody plays back"},
	ReplayOld:          {"replay_old", "packets older than the replay window: the network reorders far, or somebody plays back"},
	ReplayJump:         {"replay_jump", "counters too far ahead of the time: a member may be trying to mute a sender"},
	TooManySenders:     {"too_many_senders", "more senders under one key than this host keeps windows for"},
	BadICV:             {"bad_icv", "not authentic: damaged on the way (try offload off at the sender), or forged"},
	BadPadding:         {"bad_padding", "authentic, but badly padded: the sender is broken"},
	Dummy:              {"dummy", "dummy packets of traffic flow confidentiality: normal"},
	NextHeader:         {"next_header", "authentic, but no IP packet inside: the sender is broken"},
	SelectorMismatch:   {"selector_mismatch", "authentic, but not of the event's addresses or ports: a member sends what it may not"},
	Congestion:         {"congestion", "marked as congested, and the program does not know ECN: the network is overloaded (RFC 6040)"},
	DeviceRefused:      {"device_refused", "the kernel did not take the decrypted packet: is usher0 up?"},
}

// String is the reason's name in counters and JSON.
func (r Reason) String() string {
	if r >= reasonCount {
		return "unknown_reason"
	}
	return reasons[r].name
}

// Doc says to a user what the reason means and what to do.
func (r Reason) Doc() string {
	if r >= reasonCount {
		return ""
	}
	return reasons[r].doc
}

// Harmless tells whether the reason counts what belongs to normal operation,
// and is no loss of anybody's data.
func (r Reason) Harmless() bool {
	switch r {
	case IGMP, MLD, RouterSolicitation, Keepalive, Dummy:
		return true
	}
	return false
}

// Reasons lists all reasons.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
