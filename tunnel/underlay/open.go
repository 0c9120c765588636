package underlay

import (
	"errors"
	"net/netip"
)

// Config is what Open needs.
type Config struct {
	Port      uint16     // 0: DefaultPort
	Mark      uint32     // firewall mark of all that is sent; 0: none
	Interface string     // name of the real interface; "" leaves the choice to the routes until SetInterface
	Address   netip.Addr // source address; invalid: the first IPv4 address of Interface
	NoOffload bool       // send one datagram at a time (the agent's offload = "off")
}

// DefaultPort is the port of ESP in UDP (RFC 3948 §2.1).
const DefaultPort = 4500

// Open makes the socket.
func Open(c Config) (*UDP, error) { return nil, errors.New("underlay: not written yet") }

// UDP is the socket; it implements Conn.
type UDP struct{}

// Stats reads the socket's counters. Safe for any goroutine.
func (u *UDP) Stats() Stats { return Stats{} }
