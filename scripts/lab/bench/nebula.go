package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"usher/scripts/lab"
)

const nebulaPort = 4242

// nebulaPKI is the folder of a certification authority and of the hosts that it
// signed.
type nebulaPKI struct {
	b   *bench
	dir string
}

func (b *bench) newNebulaPKI(ctx context.Context, l *lab.Lab) (*nebulaPKI, error) {
	k := &nebulaPKI{b: b, dir: filepath.Join(l.Dir(), "nebula")}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, err
	}
	return k, k.cert(ctx, "ca", "-name", "bench")
}

func (k *nebulaPKI) cert(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, k.b.peer("nebula-cert"), args...)
	cmd.Dir = k.dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nebula-cert %s: %w: %s", args[0], err, text)
	}
	return nil
}

// start starts nebula on a host that knows where the others are.
func (k *nebulaPKI) start(ctx context.Context, processors string, h *lab.Host, at netip.Addr, others map[netip.Addr]netip.Addr) (*process, error) {
	if err := k.cert(ctx, "sign", "-name", h.Name(), "-networks", at.String()+"/24"); err != nil {
		return nil, err
	}
	var hosts strings.Builder
	for in, out := range others {
		fmt.Fprintf(&hosts, "  %q: [\"%s:%d\"]\n", in, out, nebulaPort)
	}
	// Its defaults but for what it has none for.
	config := fmt.Sprintf(`pki:
  ca: %[1]s/ca.crt
  cert: %[1]s/%[2]s.crt
  key: %[1]s/%[2]s.key
static_host_map:
%[3]slighthouse:
  am_lighthouse: false
listen:
  host: 0.0.0.0
  port: %[4]d
tun:
  dev: nebula0
logging:
  level: warning
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, k.dir, h.Name(), hosts.String(), nebulaPort)
	file := filepath.Join(k.dir, h.Name()+".yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return startOn(ctx, processors, h, k.b.peer("nebula"), "-config", file)
}

// openNebula starts nebula at both ends.
func (p *pair) openNebula(ctx context.Context, l *lab.Lab) error {
	k, err := p.b.newNebulaPKI(ctx, l)
	if err != nil {
		return err
	}
	a, z := inner(p.variant, 1), inner(p.variant, 2)
	d, err := k.start(ctx, "", p.tx, a, map[netip.Addr]netip.Addr{z: p.rx.Addr()})
	if err != nil {
		return err
	}
	p.txDaemons = append(p.txDaemons, d)
	d, err = k.start(ctx, "", p.rx, z, map[netip.Addr]netip.Addr{a: p.tx.Addr()})
	if err != nil {
		return err
	}
	p.rxDaemons = append(p.rxDaemons, d)
	return nil
}
