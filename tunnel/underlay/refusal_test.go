package underlay

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usher/scripts/lab"
)

// local opens a socket in a host of its own, which can send to itself.
func local(t *testing.T) (u *UDP, self netip.AddrPort) {
	t.Helper()
	h := lab.ForTest(t).TestHost(t, "alice", "10.77.0.1/24")
	err := h.Do(func() (err error) {
		if _, err := net.InterfaceByName("eth0"); err != nil {
			return err
		}
		u, err = Open(Config{Interface: "eth0"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u, netip.AddrPortFrom(h.Addr(), DefaultPort)
}

// receive counts what comes, until there are n datagrams.
func receive(t *testing.T, u *UDP, n int) {
	t.Helper()
	m := Message{Buffer: make([]byte, MaxDatagram)}
	got := 0
	err := lab.Within(10*time.Second, "datagrams", func() error {
		for got < n {
			if err := u.Receive(&m); err != nil {
				return err
			}
			got += (len(m.Data) + m.SegmentSize - 1) / m.SegmentSize
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%d of %d: %v", got, n, err)
	}
}

// A driver that cannot segment is asked once: its batches go one by one from
// then on, none is lost. One that refuses a batch for another reason is asked
// again.
func TestSegmentationRefused(t *testing.T) {
	for _, c := range []struct {
		errno unix.Errno
		off   bool
		asked int
	}{
		{unix.EIO, true, 1},
		{unix.EINVAL, false, 3},
	} {
		u, self := local(t)
		asked := 0
		u.out.sendmsg = func(fd int, header *unix.Msghdr) unix.Errno {
			if int(header.Controllen) > offsetSegment {
				asked++
				return c.errno
			}
			return rawSendmsg(fd, header)
		}
		b := Batch{Data: make([]byte, 1000*10+5), SegmentSize: 1000, Destination: self}
		for range 3 {
			if refused, err := u.Send(&b); refused != 0 || err != nil {
				t.Errorf("%v: %d refused, %v", c.errno, refused, err)
			}
			receive(t, u, 11)
		}
		st := u.Stats()
		if asked != c.asked || st.SegmentationOff != c.off || st.SegmentationRefused != uint64(c.asked) {
			t.Errorf("%v: asked %d times, %+v", c.errno, asked, st)
		}
	}
}

// A refused datagram takes no other one along, and the reason is told.
func TestOneRefused(t *testing.T) {
	u, self := local(t)
	u.out.single.Store(true)
	count := 0
	u.out.sendmsg = func(fd int, header *unix.Msghdr) unix.Errno {
		count++
		switch count {
		case 2:
			return unix.ENOBUFS
		case 4:
			return unix.EINTR // again
		case 7:
			return unix.EAGAIN // room comes
		}
		return rawSendmsg(fd, header)
	}
	b := Batch{Data: make([]byte, 1000*10), SegmentSize: 1000, Destination: self}
	if refused, err := u.Send(&b); refused != 1 || !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("%d refused, %v", refused, err)
	}
	receive(t, u, 9)
}

func TestNoAllocation(t *testing.T) {
	u, self := local(t)
	batch := Batch{Data: make([]byte, 1000*10+5), SegmentSize: 1000, Destination: self, TTL: 3, TOS: 4, Source: self.Addr()}
	lone := Batch{Data: make([]byte, 500), Destination: self}
	m := Message{Buffer: make([]byte, MaxDatagram)}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := u.Send(&batch); err != nil {
			t.Error(err)
		}
		if _, err := u.Send(&lone); err != nil {
			t.Error(err)
		}
		for u.Receive(&m) == nil {
			if m.Destination != self.Addr() {
				t.Error("to another one")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
