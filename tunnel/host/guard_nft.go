package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// chunk is how many elements one message holds at most: its length field
	// has 16 bits, and what does not fit is lost without an error.
	chunk = 500
	// nftPatience bounds a conversation with the kernel: when a whole batch is
	// refused, acknowledgements that the library waits for never come.
	nftPatience = 5 * time.Second
	// nftBuffer holds a batch of some ten thousand elements.
	nftBuffer = 8 << 20
	// guardTries is how often the guard is written and read back.
	guardTries = 3
	// readTries is how often reading starts anew because the ruleset changed
	// in the middle of it.
	readTries = 20
)

var errUnstable = errors.New("host: the ruleset changes too fast to be read")

// guardState is what is there of the guard.
type guardState struct {
	exists        bool
	sound         bool // chains, rules, sets and counters are as they should be
	ports, ranges map[element]bool
	out, in       Count
}

func nftConn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		// Both buffers fall back to what the host allows.
		_, _ = c.SetWriteBuffer(nftBuffer), c.SetReadBuffer(nftBuffer)
		return c.SetDeadline(time.Now().Add(nftPatience))
	}))
}

// applyGuard makes the guard hold exactly what the plan wants, by one
// transaction, and reads it back. It reports whether anything had to be done.
func applyGuard(p Plan) (changed bool, err error) {
	ports, ranges := guardElements(p)
	var last error
	for range guardTries {
		state, err := readGuard(p.TUN)
		if err != nil {
			return changed, fmt.Errorf("%w: read the table: %w", ErrGuard, err)
		}
		if state.sound && maps.Equal(state.ports, ports) && maps.Equal(state.ranges, ranges) {
			return changed, nil
		}
		if state.sound {
			last = updateGuard(state, ports, ranges)
		} else {
			last = rebuildGuard(p.TUN, state, ports, ranges)
		}
		changed = changed || last == nil
	}
	if last == nil {
		last = errors.New("another program changes it at the same time, or the kernel took only part of it")
	}
	return changed, fmt.Errorf("%w: table inet %s: %w (is nf_tables in this kernel, with inet and fib, and has the "+
		"program CAP_NET_ADMIN?)", ErrGuard, tableName, last)
}

// rebuildGuard replaces the table as a whole. The figures move over.
func rebuildGuard(tun string, old guardState, ports, ranges map[element]bool) error {
	conn, err := nftConn()
	if err != nil {
		return err
	}
	table := guardTable()
	// Adding first makes deleting safe whether it existed or not; all of this
	// is one transaction, and the old rules hold until it is through.
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	for name, count := range map[string]Count{counterOut: old.out, counterIn: old.in} {
		conn.AddObj(&nftables.NamedObj{Table: table, Name: name, Type: nftables.ObjTypeCounter,
			Obj: &expr.Counter{Packets: count.Packets, Bytes: count.Bytes}})
	}
	sets, err := guardSets(table)
	if err != nil {
		return err
	}
	for _, set := range sets {
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
		want := ports
		if set.Name == setRanges {
			want = ranges
		}
		if err := inChunks(want, func(some []nftables.SetElement) error { return conn.SetAddElements(set, some) }); err != nil {
			return err
		}
	}
	for _, chain := range guardChains(table) {
		conn.AddChain(chain)
		for _, rule := range guardRules(table, chain, tun) {
			conn.AddRule(rule)
		}
	}
	return conn.Flush()
}

// updateGuard changes the elements only, so that the counters run on.
func updateGuard(old guardState, ports, ranges map[element]bool) error {
	conn, err := nftConn()
	if err != nil {
		return err
	}
	sets, err := guardSets(guardTable())
	if err != nil {
		return err
	}
	for _, set := range sets {
		set.ID = 0 // it exists: the name counts
		have, want := old.ports, ports
		if set.Name == setRanges {
			have, want = old.ranges, ranges
		}
		if err := inChunks(difference(have, want), func(some []nftables.SetElement) error {
			return conn.SetDeleteElements(set, some)
		}); err != nil {
			return err
		}
		if err := inChunks(difference(want, have), func(some []nftables.SetElement) error {
			return conn.SetAddElements(set, some)
		}); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// difference is what a has and b has not.
func difference(a, b map[element]bool) map[element]bool {
	rest := maps.Clone(a)
	maps.DeleteFunc(rest, func(e element, _ bool) bool { return b[e] })
	return rest
}

// inChunks gives f the elements in the kernel's form, at most chunk at a time.
func inChunks(all map[element]bool, f func([]nftables.SetElement) error) error {
	some := make([]nftables.SetElement, 0, min(chunk, len(all)))
	for e := range all {
		item := nftables.SetElement{Key: e.key(e.first)}
		if e.first != e.last {
			item.KeyEnd = e.key(e.last)
		}
		if some = append(some, item); len(some) == chunk {
			if err := f(some); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	if len(some) == 0 {
		return nil
	}
	return f(some)
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
	defer conn.Close()
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

// removeGuard deletes the table if it is there.
func removeGuard() error {
	for range guardTries {
		state, err := readGuard(DefaultTUN)
		if err != nil {
			return err
		}
		if !state.exists {
			return nil
		}
		conn, err := nftConn()
		if err != nil {
			return err
		}
		conn.DelTable(guardTable())
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("host: remove table inet %s: %w", tableName, err)
		}
	}
	return fmt.Errorf("host: table inet %s comes back each time it is removed: is an agent running?", tableName)
}
