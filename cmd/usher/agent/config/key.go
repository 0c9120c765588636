package config

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxGather bounds what a batch may wait for: more is seen as delay.
const maxGather = 20 * time.Millisecond

// KeyLen is the length of key material: key 32 ‖ salt 4 (RFC 4106 §8.1).
const KeyLen = 36

// Key is the key material of a manual association. It prints as REDACTED.
type Key struct {
	_ [0]func() // incomparable: Equal takes constant time
	b [KeyLen]byte
}

var errKeyText = fmt.Errorf("want %d hex digits: key 32 bytes, salt 4 bytes", 2*KeyLen)

// UnmarshalText reads hex digits, with or without 0x in front. Its error never
// quotes the text.
func (k *Key) UnmarshalText(text []byte) error {
	text = bytes.TrimPrefix(bytes.TrimSpace(text), []byte("0x"))
	if len(text) != 2*KeyLen {
		return errKeyText
	}
	if _, err := hex.Decode(k.b[:], text); err != nil {
		clear(k.b[:])
		return errKeyText
	}
	return nil
}

// Bytes aliases the material.
func (k *Key) Bytes() []byte { return k.b[:] }

// Equal compares in constant time.
func (k *Key) Equal(o *Key) bool { return subtle.ConstantTimeCompare(k.b[:], o.b[:]) == 1 }

// Wipe overwrites the material.
func (k *Key) Wipe() { clear(k.b[:]) }

const redacted = "REDACTED"

// String prints no key.
func (k *Key) String() string { return redacted }

// GoString prints no key.
func (k *Key) GoString() string { return redacted }

// Format prints no key, whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) } //nolint:errcheck // as fmt does

// LogValue logs no key.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText writes no key.
func (k *Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// ReadKeys reads the keys of all [[sa]] tables, in their order. Every fault is
// named with file, line and key; what was read so far is wiped then. The caller
// wipes the keys.
func (c *Config) ReadKeys() ([]*Key, error) {
	keys := make([]*Key, len(c.SAs))
	var faults []error
	for i := range c.SAs {
		s := &c.SAs[i]
		if s.Key != nil {
			if err := c.private(); err != nil {
				faults = append(faults, c.Errorf(fmt.Sprintf("sa[%d].key", i), "%v", err))
				continue
			}
			keys[i] = &Key{b: s.Key.b}
			continue
		}
		k, err := readKeyFile(s.KeyFile)
		if err != nil {
			faults = append(faults, c.Errorf(fmt.Sprintf("sa[%d].key_file", i), "%v", err))
			continue
		}
		keys[i] = k
	}
	faults = append(faults, c.nonces(keys)...)
	if len(faults) > 0 {
		for _, k := range keys {
			if k != nil {
				k.Wipe()
			}
		}
		return nil, errors.Join(faults...)
	}
	return keys, nil
}

// nonces refuses what would use one nonce twice: two associations of this file
// that send under one key with one sender id.
func (c *Config) nonces(keys []*Key) []error {
	var faults []error
	for i := range c.SAs {
		for j := range i {
			a, b := &c.SAs[j], &c.SAs[i]
			if keys[i] == nil || keys[j] == nil || !a.Direction.Sends() || !b.Direction.Sends() ||
				a.SenderID == nil || b.SenderID == nil || *a.SenderID != *b.SenderID || !keys[i].Equal(keys[j]) {
				continue
			}
			faults = append(faults, c.Errorf(fmt.Sprintf("sa[%d].sender_id", i),
				"the association of line %d sends under the same key with the same sender id", c.pos.Line(fmt.Sprintf("sa[%d]", j))))
		}
	}
	return faults
}

// private refuses a TOML that holds a key and that everybody may read.
func (c *Config) private() error {
	info, err := os.Stat(c.file)
	if err != nil {
		return nil // a text in memory
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return fmt.Errorf("a key stands in a file that others may read (mode %04o): chmod 600 %s, or use key_file", m, c.file)
	}
	return nil
}

// readKeyFile reads one key, from a regular file that only its owner may read.
func readKeyFile(name string) (*Key, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w %s: not a regular file", ErrKey, name)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("%w %s: others may read it (mode %04o): chmod 600 %s", ErrKey, name, m, name)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4*KeyLen))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	k := &Key{}
	if err := k.UnmarshalText(text); err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrKey, name, err)
	}
	return k, nil
}
