package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readTries is how often reading starts anew because the ruleset changed
// in the middle of it.
const readTries = 20

var errUnstable = errors.New("host: the ruleset changes too fast to be read")

// guardState is what is there of the guard.
type guardState struct {
	exists        bool
	sound         bool // chains, rules, sets and counters are as they should be
	ports, ranges map[element]bool
	out, in       Count
}

// readGuard reads the table. It starts anew when the ruleset changed meanwhile,
// since the library does not notice a dump that was interrupted.
func readGuard(tun string) (guardState, error) {
	for range readTries {
		before, err := generation()
		if err != nil {
			return guardState{}, err
		}
		state, readErr := readGuardOnce(tun)
		after, err := generation()
		if err != nil {
			return guardState{}, err
		}
		if before == after {
			return state, readErr
		}
	}
	return guardState{}, errUnstable
}

func readGuardOnce(tun string) (guardState, error) {
	state := guardState{ports: map[element]bool{}, ranges: map[element]bool{}}
	conn, err := nftConn()
	if err != nil {
		return state, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return state, err
	}
	for _, t := range tables {
		state.exists = state.exists || t.Name == tableName
	}
	if !state.exists {
		return state, nil
	}
	table := guardTable()
	countersOK, err := readCounters(conn, table, &state)
	if err != nil {
		return state, err
	}
	setsOK, err := readSets(conn, table, &state)
	if err != nil {
		return state, err
	}
	rulesOK, err := readRules(conn, table, tun)
	state.sound = countersOK && setsOK && rulesOK
	return state, err
}

func readCounters(conn *nftables.Conn, table *nftables.Table, state *guardState) (ok bool, err error) {
	objects, err := conn.GetNamedObjects(table)
	if err != nil {
		return false, err
	}
	found := 0
	for _, o := range objects {
		named, isNamed := o.(*nftables.NamedObj)
		if !isNamed {
			continue
		}
		value, isCounter := named.Obj.(*expr.Counter)
		if !isCounter {
			continue
		}
		switch count := (Count{value.Packets, value.Bytes}); named.Name {
		case counterOut:
			state.out = count
			found++
		case counterIn:
			state.in = count
			found++
		}
	}
	return found == 2, nil
}

func readSets(conn *nftables.Conn, table *nftables.Table, state *guardState) (ok bool, err error) {
	there, err := conn.GetSets(table)
	if err != nil {
		return false, err
	}
	wanted, err := guardSets(table)
	if err != nil {
		return false, err
	}
	found := 0
	for _, set := range there {
		for _, want := range wanted {
			if set.Name != want.Name {
				continue
			}
			if set.Interval == want.Interval && set.KeyType.Bytes == want.KeyType.Bytes && !set.IsMap {
				found++
			}
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return false, err
			}
			into := state.ports
			if set.Name == setRanges {
				into = state.ranges
			}
			for _, e := range elements {
				if read, ok := parseElement(e); ok {
					into[read] = true
				}
			}
		}
	}
	return found == len(wanted), nil
}

func parseElement(e nftables.SetElement) (element, bool) {
	if len(e.Key) != 8 || len(e.KeyEnd) != 0 && len(e.KeyEnd) != 8 {
		return element{}, false
	}
	read := element{group: [4]byte(e.Key[:4]), first: binary.BigEndian.Uint16(e.Key[4:])}
	read.last = read.first
	if len(e.KeyEnd) != 0 {
		read.last = binary.BigEndian.Uint16(e.KeyEnd[4:])
	}
	return read, true
}

func readRules(conn *nftables.Conn, table *nftables.Table, tun string) (ok bool, err error) {
	there, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	found := 0
	for _, want := range guardChains(table) {
		for _, c := range there {
			if c.Table == nil || c.Table.Name != tableName || c.Name != want.Name {
				continue
			}
			if c.Type != want.Type || c.Hooknum == nil || *c.Hooknum != *want.Hooknum ||
				c.Priority == nil || *c.Priority != *want.Priority || c.Policy == nil || *c.Policy != *want.Policy {
				return false, nil
			}
			rules, err := conn.GetRules(table, c)
			if err != nil {
				return false, err
			}
			if !sameRules(rules, guardRules(table, want, tun)) {
				return false, nil
			}
			found++
		}
	}
	return found == 2, nil
}

// sameRules compares rules by their comments, which name version and contents.
func sameRules(have, want []*nftables.Rule) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range have {
		a, _ := userdata.GetString(have[i].UserData, userdata.TypeComment)
		b, _ := userdata.GetString(want[i].UserData, userdata.TypeComment)
		if a != b || len(have[i].Exprs) != len(want[i].Exprs) {
			return false
		}
	}
	return true
}

// generation is the number that the kernel gives each state of the whole
// ruleset: cheap to ask, and different after every change by anybody.
func generation() (uint32, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("host: open nftables: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is lost with it
	if err := conn.SetDeadline(time.Now().Add(nftPatience)); err != nil {
		return 0, err
	}
	replies, err := conn.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{
			Type:  mdnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN),
			Flags: mdnetlink.Request,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("host: ask for the ruleset's generation: %w", err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		attributes, err := mdnetlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), nil
			}
		}
	}
	return 0, errors.New("host: the kernel names no generation of the ruleset")
}
