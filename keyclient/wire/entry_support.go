package wire

import (
	"errors"
	"fmt"
)

// Unsupported names everything of the entry that this version cannot do. The
// error wraps ErrNotInThisVersion; nil means that the event can be joined.
func (e *Entry) Unsupported() error {
	var lacks []error
	lack := func(format string, args ...any) {
		lacks = append(lacks, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrNotInThisVersion))
	}
	for _, s := range e.Senders {
		if !s.Is4() {
			lack("sender %s: IPv6", s)
		}
	}
	for _, f := range e.Flows {
		switch {
		case !f.Destination.Is4():
			lack("flow to %s: IPv6", f.Destination)
		case !f.Destination.IsMulticast():
			lack("flow to %s: unicast", f.Destination)
		}
		if f.Protocol != "udp" {
			lack("flow to %s: protocol %s", f.Destination, f.Protocol)
		}
	}
	if e.Time.Duration == "" {
		lack("event without an end")
	}
	if e.Preview != nil {
		lack("preview")
	}
	if e.Refresh.Method != RefreshPull {
		lack("refresh by %s", e.Refresh.Method)
	}
	if e.WindowMS != e.IntervalMS {
		lack("window other than the interval")
	}
	if len(lacks) == 0 {
		return nil
	}
	return fmt.Errorf("event %q: %w", e.Title, errors.Join(lacks...))
}

// CheckPorts refuses an entry with a UDP flow that includes esp, the port of
// ESP in UDP: the host's own ciphertext would be that flow's cleartext. The
// error wraps ErrESPPort.
func (e *Entry) CheckPorts(esp uint16) error {
	for _, f := range e.Flows {
		first, last, err := f.PortRange()
		if err != nil {
			return fmt.Errorf("event %q: %w", e.Title, err)
		}
		if f.Protocol == "udp" && first <= esp && esp <= last {
			return fmt.Errorf("event %q: %w: %s port %s has %d in it", e.Title, ErrESPPort, f.Destination, f.Ports, esp)
		}
	}
	return nil
}
