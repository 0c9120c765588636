package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"usher/scripts/lab"
)

// usherConfig is what the agents' configuration has beyond one policy and one
// association for each direction.
type usherConfig struct {
	transform string // "": the default
	extra     int    // policies, each with an association, before the two that are used
	pin       string // processors for the sending agent, as taskset takes them; "": all
}

// extraPorts is how many of the extra policies share a group.
const extraPorts = 100

// spis of the two associations that are used; the extra ones count on.
const (
	forwardSPI  = 0x1001
	backwardSPI = 0x1002
	extraSPI    = 0x10000
)

// openUsher starts two agents with manual keys, as scripts/../configs/usher-manual.toml
// shows them: forward under one group, backward under another.
func (p *pair) openUsher(ctx context.Context, c usherConfig) error {
	p.to, p.back, p.source = forwardGroup, backwardGroup, p.tx.Addr()
	for _, end := range []struct {
		host    *lab.Host
		sends   netip.AddrPort
		daemons *[]*process
		pin     string
	}{{p.tx, forwardGroup, &p.txDaemons, c.pin}, {p.rx, backwardGroup, &p.rxDaemons, ""}} {
		if err := writeUsher(end.host, p.usherTOML(end.sends, c)); err != nil {
			return err
		}
		agent, err := startOn(ctx, end.pin, end.host, p.b.tool("usher"), "agent")
		if err != nil {
			return err
		}
		*end.daemons = append(*end.daemons, agent)
	}
	for _, h := range []*lab.Host{p.tx, p.rx} {
		if err := p.usherRunning(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// keys of the two directions; each lab's own, and worth nothing outside it.
const (
	forwardKey  = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
	backwardKey = "aabbccddeeff00112233445566778899aabbccddeeff001122334455667788990a0b0c0d"
)

func writeUsher(h *lab.Host, toml string) error {
	for name, text := range map[string]string{"usher.toml": toml, "forward.key": forwardKey + "\n", "backward.key": backwardKey + "\n"} {
		if err := os.WriteFile(filepath.Join(h.Path("/etc/usher"), name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// usherTOML is the configuration of the end that sends to a group.
func (p *pair) usherTOML(sends netip.AddrPort, c usherConfig) string {
	var t strings.Builder
	for i := range c.extra {
		name := fmt.Sprintf("extra-%d", i)
		group := netip.AddrFrom4([4]byte{232, 2, byte(i / extraPorts / 256), byte(i / extraPorts)})
		policy(&t, name, p.tx.Addr(), netip.AddrPortFrom(group, uint16(6000+i%extraPorts)))
		// One key for all, so each needs a sender id of its own.
		association(&t, name, extraSPI+i, "forward", sends == forwardGroup, i+2, c.transform)
	}
	policy(&t, "forward", p.tx.Addr(), forwardGroup)
	policy(&t, "backward", p.rx.Addr(), backwardGroup)
	association(&t, "forward", forwardSPI, "forward", sends == forwardGroup, 1, c.transform)
	association(&t, "backward", backwardSPI, "backward", sends == backwardGroup, 1, c.transform)
	return t.String()
}

func policy(t *strings.Builder, name string, source netip.Addr, to netip.AddrPort) {
	fmt.Fprintf(t, "[[policy]]\nname = %q\nsource = %q\ndestination = %q\nports = \"%d\"\n", name, source, to.Addr(), to.Port())
}

func association(t *strings.Builder, name string, spi int, key string, sends bool, senderID int, transform string) {
	fmt.Fprintf(t, "[[sa]]\npolicy = %q\nspi = %d\nkey_file = \"/etc/usher/%s.key\"\n", name, spi, key)
	if sends {
		fmt.Fprintf(t, "direction = \"send\"\nsender_id = %d\n", senderID)
	} else {
		fmt.Fprintf(t, "direction = \"receive\"\n")
	}
	if transform != "" {
		fmt.Fprintf(t, "transform = %q\n", transform)
	}
}

// usherRunning waits until an agent says that it runs.
func (p *pair) usherRunning(parent context.Context, h *lab.Host) error {
	limited, cancel := context.WithTimeout(parent, 2*time.Minute)
	defer cancel()
	ctx, release := whileAlive(limited, p.daemons())
	defer release()
	var refused error
	err := awaited(ctx, "the agent of "+h.Name(), func() error {
		text, err := h.Run(ctx, p.b.tool("usher"), "status", "--json")
		if err != nil {
			return err
		}
		var status struct {
			State  string `json:"state"`
			Config struct {
				Error string `json:"error"`
			} `json:"config"`
			Guard struct {
				Active bool `json:"active"`
			} `json:"guard"`
		}
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return err
		}
		if status.Config.Error != "" {
			first, _, _ := strings.Cut(status.Config.Error, "\n")
			refused = fmt.Errorf("the agent of %s refuses its configuration: %s", h.Name(), first)
			return nil // waiting would not help
		}
		if status.State != "running" || !status.Guard.Active {
			return fmt.Errorf("its state is %q, guard %v", status.State, status.Guard.Active)
		}
		return nil
	})
	return errors.Join(err, refused)
}
