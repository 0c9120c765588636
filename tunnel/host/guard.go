package host

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The guard, as nft would show it:
//
//	table inet usher {
//	    counter refused_out { }
//	    counter refused_in { }
//	    set ports  { type ipv4_addr . inet_service; elements = { 232.1.2.3 . 5004 } }
//	    set ranges { type ipv4_addr . inet_service; flags interval; elements = { 232.1.2.4 . 5000-5010 } }
//	    chain out { type filter hook output priority raw; policy accept;
//	        oifname != "usher0" ip daddr . udp dport @ports counter name refused_out drop
//	        oifname != "usher0" ip daddr . udp dport @ranges counter name refused_out drop }
//	    chain in { type filter hook prerouting priority raw; policy accept;
//	        iifname != "usher0" ip daddr . udp dport @ports fib saddr type != local counter name refused_in drop
//	        iifname != "usher0" ip daddr . udp dport @ranges fib saddr type != local counter name refused_in drop }
//	}
//
// Interfaces are told by name, not by index: the table stays while usher0 comes
// and goes. Any source is refused, since a player that names no source takes
// anybody's packets; but a source that is this host's own is the looped copy
// for a local viewer, and one forged from the wire is dropped by the kernel's
// routing right behind this hook. lo is not exempt. Of a datagram in fragments
// the first holds the ports and is refused, and what lacks it is never put
// together, so that the others need no rule.
//
// Single ports are in a hash, since most flows have one; ranges cost more.
const (
	tableName   = "usher"
	chainOut    = "out"
	chainIn     = "in"
	setPorts    = "ports"
	setRanges   = "ranges"
	counterOut  = "refused_out"
	counterIn   = "refused_in"
	ruleVersion = "usher guard 1" // part of each rule's comment: another version's rules are replaced
)

// Offsets in the headers (RFC 791 §3.1, RFC 768).
const (
	ipv4Destination = 16
	udpDestination  = 2
)

// element is a group with the destination ports first to last.
type element struct {
	group       [4]byte
	first, last uint16
}

// guardElements are the elements that the plan wants: ports one by one, and
// ranges that do not overlap, since the kernel refuses those that do. The port
// of the ciphertext is left out of ranges: the tunnel's own packets go to the
// same groups.
func guardElements(p Plan) (ports, ranges map[element]bool) {
	byGroup := map[[4]byte][]element{}
	for _, f := range p.Flows {
		group := f.Destination.As4()
		byGroup[group] = append(byGroup[group], without(p.Port, element{group, f.FirstPort, f.LastPort})...)
	}
	ports, ranges = map[element]bool{}, map[element]bool{}
	for _, list := range byGroup {
		for _, e := range merge(list) {
			if e.first == e.last {
				ports[e] = true
			} else {
				ranges[e] = true
			}
		}
	}
	return ports, ranges
}

// without cuts port out of e.
func without(port uint16, e element) []element {
	if port < e.first || port > e.last {
		return []element{e}
	}
	var parts []element
	if port > e.first {
		parts = append(parts, element{e.group, e.first, port - 1})
	}
	if port < e.last {
		parts = append(parts, element{e.group, port + 1, e.last})
	}
	return parts
}

// merge joins elements of one group that overlap.
func merge(list []element) []element {
	slices.SortFunc(list, func(a, b element) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	})
	var merged []element
	for _, e := range list {
		if n := len(merged); n > 0 && e.first <= merged[n-1].last {
			merged[n-1].last = max(merged[n-1].last, e.last)
			continue
		}
		merged = append(merged, e)
	}
	return merged
}

// key is the concatenation address . port as the kernel keeps it: each field
// filled up to four bytes.
func (e element) key(port uint16) []byte {
	b := make([]byte, 8)
	copy(b, e.group[:])
	binary.BigEndian.PutUint16(b[4:], port)
	return b
}

// guardRules are the rules of a chain, in order.
func guardRules(table *nftables.Table, chain *nftables.Chain, tun string) []*nftables.Rule {
	name, count := expr.MetaKeyOIFNAME, counterOut
	if chain.Name == chainIn {
		name, count = expr.MetaKeyIIFNAME, counterIn
	}
	var rules []*nftables.Rule
	for _, set := range []string{setPorts, setRanges} {
		ifname := make([]byte, unix.IFNAMSIZ)
		copy(ifname, tun)
		exprs := []expr.Any{
			&expr.Meta{Key: name, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname},
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			// Register 1 is 16 bytes wide; 9 is its second four bytes.
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: ipv4Destination, Len: 4},
			&expr.Payload{DestRegister: 9, Base: expr.PayloadBaseTransportHeader, Offset: udpDestination, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: set},
		}
		if chain.Name == chainIn {
			exprs = append(exprs,
				&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
			)
		}
		exprs = append(exprs,
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: count},
			&expr.Verdict{Kind: expr.VerdictDrop},
		)
		rules = append(rules, &nftables.Rule{
			Table: table, Chain: chain, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, ruleComment(tun, chain.Name, set)),
		})
	}
	return rules
}

// ruleComment is what a rule is known by when the table is read back.
func ruleComment(tun, chain, set string) string {
	return ruleVersion + ": " + chain + " but by " + tun + ", " + set
}

func guardTable() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

func guardChains(table *nftables.Table) []*nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return []*nftables.Chain{
		{Name: chainOut, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
			Priority: nftables.ChainPriorityRaw, Policy: &accept},
		{Name: chainIn, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityRaw, Policy: &accept},
	}
}

func guardSets(table *nftables.Table) ([]*nftables.Set, error) {
	key, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	return []*nftables.Set{
		// The library's own numbering of sets is not safe for two goroutines.
		{Table: table, Name: setPorts, ID: 1, KeyType: key, Concatenation: true},
		{Table: table, Name: setRanges, ID: 2, KeyType: key, Concatenation: true, Interval: true},
	}, nil
}

// groups lists the distinct groups of the plan, in the order of the flows.
func (p Plan) groups() []netip.Addr {
	var groups []netip.Addr
	for _, f := range p.Flows {
		if !slices.Contains(groups, f.Destination) {
			groups = append(groups, f.Destination)
		}
	}
	return groups
}
