package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"usher/scripts/lab"
)

// openvpnPKI is the folder of a certification authority and of the hosts that it
// signed.
type openvpnPKI struct {
	dir    string
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	serial int64
}

func newOpenVPNPKI(l *lab.Lab) (*openvpnPKI, error) {
	k := &openvpnPKI{dir: filepath.Join(l.Dir(), "openvpn")}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, err
	}
	return k, k.sign("ca")
}

// sign makes NAME.pem and NAME.key. The first one is the authority.
func (k *openvpnPKI) sign(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	k.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(k.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if k.ca == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		k.ca, k.key = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, k.ca, &key.PublicKey, k.key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(k.file(name, "pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(k.file(name, "key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}

func (k *openvpnPKI) file(name, kind string) string { return filepath.Join(k.dir, name+"."+kind) }

// start starts openvpn on a host: AES-256-GCM over UDP, all in the daemon.
func (k *openvpnPKI) start(ctx context.Context, processors string, h *lab.Host, more ...string) (*process, error) {
	if err := k.sign(h.Name()); err != nil {
		return nil, err
	}
	args := append([]string{
		"--dev", "tun0", "--dev-type", "tun", "--proto", "udp4", "--topology", "subnet",
		"--ca", k.file("ca", "pem"), "--cert", k.file(h.Name(), "pem"), "--key", k.file(h.Name(), "key"),
		"--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--disable-dco", "--verb", "1",
	}, more...)
	return startOn(ctx, processors, h, "openvpn", args...)
}

// openOpenVPN starts openvpn at both ends, without a server's mode.
func (p *pair) openOpenVPN(ctx context.Context, l *lab.Lab) error {
	k, err := newOpenVPNPKI(l)
	if err != nil {
		return err
	}
	a, z := inner(p.variant, 1).String(), inner(p.variant, 2).String()
	d, err := k.start(ctx, "", p.tx, "--tls-server", "--dh", "none", "--remote", p.rx.Addr().String(), "--ifconfig", a, "255.255.255.0")
	if err != nil {
		return err
	}
	p.txDaemons = append(p.txDaemons, d)
	d, err = k.start(ctx, "", p.rx, "--tls-client", "--remote", p.tx.Addr().String(), "--ifconfig", z, "255.255.255.0")
	if err != nil {
		return err
	}
	p.rxDaemons = append(p.rxDaemons, d)
	return nil
}
