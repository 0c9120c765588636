package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"golang.org/x/crypto/chacha20poly1305"
)

// Lengths in bytes (RFC 4106 §3, §8.1; RFC 7634 §2).
const (
	HeaderLen   = 16 // SPI 4, sequence number 4, IV 8
	ICVLen      = 16
	KeyLen      = 32
	SaltLen     = 4
	MaterialLen = KeyLen + SaltLen
	trailerLen  = 2 // pad length, next header
	wordLen     = 4 // RFC 4303 §2.4: the encrypted part is whole words
	nonceLen    = SaltLen + 8
	MinLen      = HeaderLen + wordLen + ICVLen // of a whole packet
)

// Overhead is the most that ESP adds to an inner packet: header, 3 bytes of padding, trailer, ICV.
const Overhead = HeaderLen + wordLen - 1 + trailerLen + ICVLen

// Values of the next header field that tunnel mode knows (RFC 4303 §2.6).
const (
	NextIPv4  uint8 = 4
	NextIPv6  uint8 = 41
	NextDummy uint8 = 59
)

// SealedLen returns the length of the ESP packet that holds an inner packet of innerLen bytes.
func SealedLen(innerLen int) int {
	return HeaderLen + (innerLen+trailerLen+wordLen-1)&^(wordLen-1) + ICVLen
}

// Cipher is one key of one transform. Its methods may be called from several goroutines at once;
// they allocate only when two of them seal, or two of them open, with one Cipher at the same instant.
// It prints as REDACTED.
type Cipher struct {
	_     [0]func() // incomparable
	keyed atomic.Pointer[keyed]
}

// keyed is what the key made. It is never changed, so that a Seal that is under way while
// [Cipher.Wipe] runs ends with the key with which it began.
type keyed struct {
	aead cipher.AEAD
	salt [SaltLen]byte
	seal scratch
	open scratch
}

// scratch lends the nonce a place on the heap: an array on the stack would escape through the
// interface of the AEAD and cost an allocation for each packet.
type scratch struct {
	lent  atomic.Bool
	nonce [nonceLen]byte
}

// borrow returns s, or a new scratch if another goroutine has it.
func (s *scratch) borrow() *scratch {
	if s.lent.CompareAndSwap(false, true) {
		return s
	}
	return new(scratch)
}

func (s *scratch) giveBack() { s.lent.Store(false) }

// New returns the cipher for material = key 32 ‖ salt 4, which it does not keep: the caller wipes it.
// Errors: [ErrNotInThisVersion], [ErrUnknownTransform], [ErrMaterialLength].
func New(t Transform, material []byte) (*Cipher, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	if len(material) != MaterialLen {
		return nil, fmt.Errorf("%w, not %d", ErrMaterialLength, len(material))
	}
	aead, err := newAEAD(t, material[:KeyLen])
	if err != nil {
		return nil, fmt.Errorf("esp: key for %s: %w", t, err)
	}
	k := &keyed{aead: aead}
	copy(k.salt[:], material[KeyLen:])
	c := new(Cipher)
	c.keyed.Store(k)
	return c, nil
}

func newAEAD(t Transform, key []byte) (cipher.AEAD, error) {
	if t == ChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal makes an ESP packet in place: buf[0:HeaderLen] is where the header goes, buf[HeaderLen:][:n]
// holds the inner packet, and cap(buf) must be at least SealedLen(n). It returns the packet, which
// aliases buf, or nil if the capacity is not there or the key is wiped. The IV is
// sender id << 48 | counter; it must not come twice under one key.
func (c *Cipher) Seal(buf []byte, n int, spi, seq uint32, iv uint64, nextHeader uint8) []byte {
	k := c.keyed.Load()
	sealed := SealedLen(n)
	if k == nil || n < 0 || cap(buf) < sealed {
		return nil
	}
	buf = buf[:sealed]
	binary.BigEndian.PutUint32(buf[0:], spi)
	binary.BigEndian.PutUint32(buf[4:], seq)
	binary.BigEndian.PutUint64(buf[8:], iv)

	text := buf[HeaderLen : sealed-ICVLen]
	padding := text[n : len(text)-trailerLen]
	for i := range padding {
		padding[i] = byte(i + 1) // RFC 4303 §2.4
	}
	text[len(text)-2] = byte(len(padding))
	text[len(text)-1] = nextHeader

	s := k.seal.borrow()
	k.fillNonce(&s.nonce, buf)
	k.aead.Seal(text[:0], s.nonce[:], text, buf[:8])
	s.giveBack()
	return buf
}

// Open authenticates and decrypts an ESP packet in place. It returns what lies before the padding,
// aliasing pkt, and the next header. What it returns may be longer than the inner packet, since
// traffic flow confidentiality padding (RFC 4303 §2.7) is allowed: the inner header's total length
// decides, and its version must agree with the next header; both are the caller's checks.
// Errors: [ErrShort], [ErrBadICV], [ErrBadPadding], [ErrBadNextHeader], [ErrWiped]; with any of them
// inner is nil and pkt's content is lost.
func (c *Cipher) Open(pkt []byte) (inner []byte, nextHeader uint8, err error) {
	if len(pkt) < MinLen || len(pkt)%wordLen != 0 {
		return nil, 0, ErrShort
	}
	k := c.keyed.Load()
	if k == nil {
		return nil, 0, ErrWiped
	}
	s := k.open.borrow()
	k.fillNonce(&s.nonce, pkt)
	text, err := k.aead.Open(pkt[HeaderLen:HeaderLen], s.nonce[:], pkt[HeaderLen:], pkt[:8])
	s.giveBack()
	if err != nil {
		return nil, 0, ErrBadICV
	}

	body := text[:len(text)-trailerLen]
	padLen := int(text[len(text)-2])
	if padLen > len(body) {
		return nil, 0, ErrBadPadding
	}
	inner = body[:len(body)-padLen]
	for i, b := range body[len(inner):] {
		if b != byte(i+1) {
			return nil, 0, ErrBadPadding
		}
	}
	nextHeader = text[len(text)-1]
	switch nextHeader {
	case NextIPv4, NextIPv6, NextDummy:
		return inner, nextHeader, nil
	}
	return nil, 0, ErrBadNextHeader
}

// fillNonce makes salt ‖ IV (RFC 4106 §4, RFC 7634 §2) of the packet's IV.
func (k *keyed) fillNonce(nonce *[nonceLen]byte, pkt []byte) {
	copy(nonce[:SaltLen], k.salt[:])
	copy(nonce[SaltLen:], pkt[8:HeaderLen])
}

// Wipe drops the key; Seal returns nil and Open [ErrWiped] from then on. The memory of an AEAD cannot
// be overwritten from outside: it goes when it is collected (docs/keying.md §3).
func (c *Cipher) Wipe() { c.keyed.Store(nil) }

const redacted = "REDACTED"

// String returns REDACTED.
func (c *Cipher) String() string { return redacted }

// GoString returns REDACTED.
func (c *Cipher) GoString() string { return redacted }

// Format writes REDACTED for every verb.
func (c *Cipher) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns REDACTED.
func (c *Cipher) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns REDACTED, in JSON too.
func (c *Cipher) MarshalText() ([]byte, error) { return []byte(redacted), nil }
