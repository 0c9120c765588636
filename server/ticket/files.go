package ticket

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// writeKey stores a private key, PKCS #8 in PEM, mode 0600.
func writeKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(text)
	return replaceFile(name, text, 0o600)
}

// writeCertificates stores a chain in PEM, mode 0644.
func writeCertificates(name string, ders ...[]byte) error {
	var text bytes.Buffer
	for _, der := range ders {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	return replaceFile(name, text.Bytes(), 0o644)
}

// replaceFile writes a file so that it is there whole or not at all, also after
// a power cut.
func replaceFile(name string, data []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readKey reads what writeKey wrote. ErrFile, fs.ErrNotExist.
func readKey(name string) (crypto.Signer, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%w: %s holds no private key", ErrFile, name)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrFile, name) // without the cause: it may quote the key
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %s holds a key that cannot sign", ErrFile, name)
	}
	return signer, nil
}

// readCertificates reads what writeCertificates wrote, at least one.
// ErrFile, fs.ErrNotExist.
func readCertificates(name string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrFile, name, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: %s holds no certificate", ErrFile, name)
	}
	return certs, nil
}

// readPair reads a key and its certificate, nil if they are missing or do not
// belong together: such a pair is made anew.
func readPair(base string) (crypto.Signer, *x509.Certificate) {
	key, err := readKey(base + ".key")
	if err != nil {
		return nil, nil
	}
	certs, err := readCertificates(base + ".pem")
	if err != nil {
		return nil, nil
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certs[0].PublicKey) {
		return nil, nil
	}
	return key, certs[0]
}
