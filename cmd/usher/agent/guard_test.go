package agent_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"usher/cmd/usher/control"
	"usher/tunnel/underlay/underlaytest"
)

// TestNoGuardNoPath: where the guard cannot be made, forged cleartext would reach
// players and programs that bind would send in the clear. So no path is opened, and
// nobody is told that all is well; once the guard stands, the agent goes on by itself.
func TestNoGuardNoPath(t *testing.T) {
	m := machine(underlaytest.NewNetwork(), "10.77.0.2/24")
	m.RefuseGuard(true)
	r := start(t, m, manual("both"))
	state := func(want control.State, problem string) func() error {
		return func() error {
			s := r.status()
			if s.State != want || (len(s.Problems) > 0) != (problem != "") || problem != "" && s.Problems[0].Code != problem {
				return fmt.Errorf("%s, %+v", s.State, s.Problems)
			}
			return nil
		}
	}
	if err := state(control.StateFailed, "guard")(); err != nil {
		t.Error(err)
	}
	if m.Conn() != nil {
		t.Error("the path was opened without a guard")
	}
	if d, err := r.client.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "guard does not stand") {
		t.Errorf("up: %v, %v", d, err)
	}
	m.RefuseGuard(false)
	r.eventually("the path", state(control.StateRunning, ""))

	// A stream that runs is not cut off by a guard that cannot be changed, but told of.
	m.RefuseGuard(true)
	r.write("mtu = 1400\n" + manual("both"))
	r.reload <- os.Interrupt
	r.eventually("the problem", state(control.StateFailed, "guard"))
	m.Device().Send(datagram("10.77.0.2", "232.1.2.3", 5004, "x"))
	r.eventually("one packet", func() error {
		if s := r.status(); s.Traffic.OutPackets != 1 {
			return fmt.Errorf("%+v", s.Traffic)
		}
		return nil
	})
	m.RefuseGuard(false)
	r.eventually("the guard", state(control.StateRunning, ""))
}
