package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"usher/scripts/lab"
)

// wgEnd is a host with wireguard-go.
type wgEnd struct {
	host   *lab.Host
	inner  netip.Addr
	key    *ecdh.PrivateKey
	daemon *process
}

const wgPort = 51820

// openWireguard starts wireguard-go at both ends, with its defaults.
func (p *pair) openWireguard(ctx context.Context) error {
	a, err := p.b.startWireguard(ctx, "", p.tx, inner(p.variant, 1))
	if err != nil {
		return err
	}
	p.txDaemons = append(p.txDaemons, a.daemon)
	z, err := p.b.startWireguard(ctx, "", p.rx, inner(p.variant, 2))
	if err != nil {
		return err
	}
	p.rxDaemons = append(p.rxDaemons, z.daemon)
	if err := a.meet(ctx, z); err != nil {
		return err
	}
	return z.meet(ctx, a)
}

// startWireguard starts a daemon in the foreground and gives its interface an
// address.
func (b *bench) startWireguard(ctx context.Context, processors string, h *lab.Host, at netip.Addr) (*wgEnd, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	d, err := startOn(ctx, processors, h, b.peer("wireguard"), "--foreground", "wg0")
	if err != nil {
		return nil, err
	}
	e := &wgEnd{host: h, inner: at, key: key, daemon: d}
	if err := lab.Within(10*time.Second, "wireguard-go", func() error {
		if err := d.alive(); err != nil {
			return err
		}
		return e.set("private_key="+hex.EncodeToString(key.Bytes()), fmt.Sprintf("listen_port=%d", wgPort))
	}); err != nil {
		d.stop()
		return nil, err
	}
	return e, addressed(ctx, h, "wg0", at)
}

// addressed gives a tunnel's interface its address and the network behind it.
func addressed(ctx context.Context, h *lab.Host, iface string, at netip.Addr) error {
	if _, err := h.Run(ctx, "ip", "addr", "add", at.String()+"/24", "dev", iface); err != nil {
		return err
	}
	_, err := h.Run(ctx, "ip", "link", "set", iface, "up")
	return err
}

// meet tells an end of another one.
func (e *wgEnd) meet(_ context.Context, other *wgEnd) error {
	return e.set(
		"public_key="+hex.EncodeToString(other.key.PublicKey().Bytes()),
		fmt.Sprintf("endpoint=%s:%d", other.host.Addr(), wgPort),
		fmt.Sprintf("allowed_ip=%s/32", other.inner),
	)
}

// set speaks WireGuard's configuration protocol over the daemon's socket, which
// lies in the host's own /run.
func (e *wgEnd) set(lines ...string) error {
	c, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root/run/wireguard/wg0.sock", e.host.PID()))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "set=1\n%s\n\n", strings.Join(lines, "\n")); err != nil {
		return err
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	if answer := strings.TrimSpace(string(b[:n])); answer != "errno=0" {
		return fmt.Errorf("wireguard-go answers %q", answer)
	}
	return nil
}
