package wishes_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"usher/cmd/usher/agent/wishes"
	"usher/scripts/lab"
)

const patience = 10 * time.Second

// TestKernel: a real kernel's counts, with sources hidden behind a newer group that
// has none, and its announcements.
func TestKernel(t *testing.T) {
	h := lab.ForTest(t).TestHost(t, "viewer", "10.77.0.3/24")
	var marker wishes.Marker
	defer marker.Close() //nolint:errcheck // the test is over
	reader := wishes.Reader{Marker: &marker, ReadFile: func(name string) ([]byte, error) {
		return os.ReadFile(filepath.Join("/proc/thread-self/net", filepath.Base(name)))
	}}
	ctx, cancel := context.WithCancel(t.Context())
	news, watched := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		watched <- h.Do(func() error {
			return wishes.Watch(ctx, func() {
				select {
				case news <- struct{}{}:
				default:
				}
			})
		})
	}()
	group, source := addr("232.1.2.3"), addr("10.77.0.2")
	wanted := func() (some, marked bool) {
		t.Helper()
		err := h.Do(func() error {
			s, settled, err := reader.Read()
			if err != nil || !settled {
				return errors.Join(err, errors.New("not settled"))
			}
			state := wishes.NewState("usher0")
			state.Observe(s, settled, wishes.Own{})
			_, some = state.Wants(group, source)
			_, other := state.Wants(group, addr("10.77.0.9"))
			if other {
				return errors.New("taken for a wish of any source")
			}
			marked = s.Marked
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return some, marked
	}
	join := func(f func(p *ipv4.PacketConn, eth0 *net.Interface) error) net.PacketConn {
		t.Helper()
		var c net.PacketConn
		if err := h.Do(func() error {
			eth0, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			if c, err = net.ListenPacket("udp4", ":0"); err != nil {
				return err
			}
			return f(ipv4.NewPacketConn(c), eth0)
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	if some, marked := wanted(); some || !marked {
		t.Errorf("nobody joined: %v, marked %v", some, marked)
	}
	player := join(func(p *ipv4.PacketConn, eth0 *net.Interface) error {
		return p.JoinSourceSpecificGroup(eth0, &net.UDPAddr{IP: group.AsSlice()}, &net.UDPAddr{IP: source.AsSlice()})
	})
	// A responder that starts later, and one on lo before the marker.
	join(func(p *ipv4.PacketConn, eth0 *net.Interface) error {
		return p.JoinGroup(eth0, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)})
	})
	join(func(p *ipv4.PacketConn, _ *net.Interface) error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		return p.JoinGroup(lo, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)})
	})
	if some, marked := wanted(); !some || !marked {
		t.Errorf("a player joined: %v, marked %v", some, marked)
	}
	if err := player.Close(); err != nil {
		t.Fatal(err)
	}
	if some, _ := wanted(); some {
		t.Error("the player is gone")
	}
	select {
	case err := <-watched:
		t.Logf("no announcements: %v", err) // the kernel is older than they are
	default:
		if err := lab.Within(patience, "an announcement", func() error {
			// All of the above may have been over before Watch listened.
			if err := join(func(p *ipv4.PacketConn, eth0 *net.Interface) error {
				return p.JoinGroup(eth0, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 252)})
			}).Close(); err != nil {
				return err
			}
			if len(news) == 0 {
				return errors.New("none")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	}
	cancel()
}
