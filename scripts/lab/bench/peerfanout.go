package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"usher/scripts/lab"
)

// What a unicast VPN's sender pays for the same stream: a copy for each
// receiver. Beside the figures for one group, not part of any ratio.

// fanSizes are the numbers of receivers that are compared.
var fanSizes = []int{1, 8, fanReceivers}

const (
	peerFanRounds = 2
	// peerFanMost is how many packets a second all receivers get together:
	// beyond it a sender's daemon is full, and loses instead of paying.
	peerFanMost = 16_000
)

// The sender's daemon has the first processor, and all receivers' daemons share
// the other one.
const senderProcessor, receiverProcessor = "0", "1"

// peerFan is a sender with a tunnel to each of many receivers.
type peerFan struct {
	pair
	lab       *lab.Lab
	receivers []*lab.Host
}

func measurePeerFanout(ctx context.Context, b *bench) error {
	for _, variant := range peerVariants {
		if err := inLab(func(l *lab.Lab) error {
			f := &peerFan{pair: pair{b: b, variant: variant}, lab: l}
			defer f.close()
			if err := f.open(ctx); err != nil {
				return err
			}
			return f.rounds(ctx)
		}); err != nil {
			return fmt.Errorf("%s to many receivers: %w", variant, err)
		}
	}
	return nil
}

func (f *peerFan) rounds(ctx context.Context) error {
	for range min(f.b.rounds, peerFanRounds) {
		for _, n := range fanSizes {
			var targets []netip.AddrPort
			for i := range n {
				targets = append(targets, netip.AddrPortFrom(f.inner(i), appPort))
			}
			limited, cancel := context.WithTimeout(ctx, loadFan.duration+20*time.Second)
			r, err := f.fanStream(limited, targets, min(loadFan.rate, peerFanMost/n))
			cancel()
			if err != nil {
				return fmt.Errorf("%d receivers: %w", n, err)
			}
			f.b.figures.fan(f.variant, n, *r)
		}
	}
	return nil
}

// inner is a receiver's address in the tunnel.
func (f *peerFan) inner(receiver int) netip.Addr { return inner(f.variant, receiver+2) }

// open lays out the hosts, starts the daemons, and waits until each receiver
// can be reached.
func (f *peerFan) open(ctx context.Context) (err error) {
	if f.tx, err = f.lab.Host("a", "10.77.0.1/16"); err != nil {
		return err
	}
	if err := steerCopies(ctx, f.lab, f.tx); err != nil {
		return err
	}
	for i := range fanReceivers {
		h, err := f.lab.Host(fmt.Sprintf("r%d", i), fmt.Sprintf("10.77.1.%d/16", i+1))
		if err != nil {
			return err
		}
		f.receivers = append(f.receivers, h)
	}
	switch f.variant {
	case variantWireguard:
		err = f.startWireguard(ctx)
	case variantNebula:
		err = f.startNebula(ctx)
	case variantOpenVPN:
		err = f.startOpenVPN(ctx)
	}
	if err != nil {
		return err
	}
	return f.reach(ctx)
}

// reach has an echo answer on each receiver: handshakes are done, and from now on
// a socket takes what comes.
func (f *peerFan) reach(parent context.Context) error {
	limited, cancel := context.WithTimeout(parent, 90*time.Second)
	defer cancel()
	ctx, release := whileAlive(limited, f.daemons())
	defer release()
	for i, h := range f.receivers {
		p := pair{b: f.b, variant: f.variant, tx: f.tx, rx: h, to: netip.AddrPortFrom(f.inner(i), appPort)}
		if err := awaited(ctx, "receiver "+h.Name(), func() error {
			echo, err := p.startEcho(ctx)
			if err != nil {
				return err
			}
			defer echo.stop()
			r, err := p.ping(ctx, 3, 20*time.Millisecond)
			if err != nil {
				return err
			}
			if r.Answered == 0 {
				return errors.New("no ping was answered")
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (f *peerFan) startWireguard(ctx context.Context) error {
	hub, err := f.b.startWireguard(ctx, senderProcessor, f.tx, inner(f.variant, 1))
	if err != nil {
		return err
	}
	f.txDaemons = append(f.txDaemons, hub.daemon)
	for i, h := range f.receivers {
		e, err := f.b.startWireguard(ctx, receiverProcessor, h, f.inner(i))
		if err != nil {
			return err
		}
		f.rxDaemons = append(f.rxDaemons, e.daemon)
		if err := errors.Join(hub.meet(ctx, e), e.meet(ctx, hub)); err != nil {
			return err
		}
	}
	return nil
}

func (f *peerFan) startNebula(ctx context.Context) error {
	k, err := f.b.newNebulaPKI(ctx, f.lab)
	if err != nil {
		return err
	}
	hub := inner(f.variant, 1)
	others := map[netip.Addr]netip.Addr{}
	for i, h := range f.receivers {
		others[f.inner(i)] = h.Addr()
	}
	d, err := k.start(ctx, senderProcessor, f.tx, hub, others)
	if err != nil {
		return err
	}
	f.txDaemons = append(f.txDaemons, d)
	for i, h := range f.receivers {
		d, err := k.start(ctx, receiverProcessor, h, f.inner(i), map[netip.Addr]netip.Addr{hub: f.tx.Addr()})
		if err != nil {
			return err
		}
		f.rxDaemons = append(f.rxDaemons, d)
	}
	return nil
}

func (f *peerFan) startOpenVPN(ctx context.Context) error {
	k, err := newOpenVPNPKI(f.lab)
	if err != nil {
		return err
	}
	network := netip.PrefixFrom(inner(f.variant, 0), 24)
	clients := filepath.Join(k.dir, "clients")
	if err := os.MkdirAll(clients, 0o700); err != nil {
		return err
	}
	for i, h := range f.receivers {
		push := fmt.Sprintf("ifconfig-push %s 255.255.255.0\n", f.inner(i))
		if err := os.WriteFile(filepath.Join(clients, h.Name()), []byte(push), 0o600); err != nil {
			return err
		}
	}
	d, err := k.start(ctx, senderProcessor, f.tx, "--server", network.Addr().String(), "255.255.255.0", "--dh", "none", "--client-config-dir", clients)
	if err != nil {
		return err
	}
	f.txDaemons = append(f.txDaemons, d)
	for _, h := range f.receivers {
		d, err := k.start(ctx, receiverProcessor, h, "--client", "--nobind", "--remote", f.tx.Addr().String())
		if err != nil {
			return err
		}
		f.rxDaemons = append(f.rxDaemons, d)
	}
	return nil
}
