package host

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
)

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
