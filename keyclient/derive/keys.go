package derive

import "encoding/binary"

// IANA's transform numbers, as the wire carries them (docs/keying.md §2).
const (
	TransformNULL             uint8 = 11 // RFC 2410
	TransformAES256GCM        uint8 = 20 // RFC 4106
	TransformAESGMAC          uint8 = 21 // RFC 4543
	TransformChaCha20Poly1305 uint8 = 28 // RFC 7634
)

// ExporterLabel is the TLS exporter's label for K₀ (docs/keying.md §4).
const ExporterLabel = "EXPORTER-usher1-step"

// ExporterContext is the TLS exporter's context for K₀: tag ‖ nonce (docs/keying.md §4).
func ExporterContext(t Tag, nonce [16]byte) []byte {
	return append(append(make([]byte, 0, 24), t[:]...), nonce[:]...)
}

// CookieKey is Wₙ, under which the key servers seal the cookies numbered n.
// c is the secret of interval n (docs/keying.md §2).
func CookieKey(c *Secret, t Tag, n uint32) *Secret {
	return expand(c, "cookie", tagAnd(t, n))
}

// GroupKey is Bᵢ, the interval key of the members of a multicast event.
// c is the secret of interval i (docs/keying.md §2).
func GroupKey(c *Secret, t Tag, i uint32) *Secret {
	return expand(c, "group", tagAnd(t, i))
}

// TrafficKey is what the SA of interval i is keyed with: key of 32 bytes, salt
// of 4. The caller wipes it once the cipher is made (docs/keying.md §2).
func TrafficKey(b *Secret, t Tag, i uint32, transform uint8) [36]byte {
	out := KDF(b, "esp", append(tagAnd(t, i), transform), 36)
	defer clear(out)
	return [36]byte(out)
}

// PushSecret is Rᵢ, which opens the push for interval i+1 (docs/keying.md §2).
func PushSecret(b *Secret, t Tag, i uint32) *Secret {
	return expand(b, "push", tagAnd(t, i))
}

// TreeSecret is T_g of generation g. c is the secret of the generation's last
// interval (docs/keying.md §2).
func TreeSecret(c *Secret, t Tag, g uint32) *Secret {
	return expand(c, "tree", tagAnd(t, g))
}

// HubKey is Qᵢ of one sender of a unicast event; sender is its client number
// (docs/keying.md §2).
func HubKey(c *Secret, t Tag, i, sender uint32) *Secret {
	return expand(c, "hub", binary.BigEndian.AppendUint32(tagAnd(t, i), sender))
}

// PairKey is P, between a hub and the receiver with that client number and
// inner address (16 bytes, IPv4 mapped; docs/keying.md §2).
func PairKey(q *Secret, number uint32, inner [16]byte) *Secret {
	context := binary.BigEndian.AppendUint32(make([]byte, 0, 20), number)
	return expand(q, "pair", append(context, inner[:]...))
}

// Step derives Aⱼ, which protects one exchange, and Kⱼ₊₁ from Kⱼ. The client
// takes the step when it accepts an answer under Aⱼ (docs/keying.md §2).
func Step(k *Secret, t Tag) (a, next *Secret) {
	out := KDF(k, "step", t[:], 64)
	defer clear(out)
	a, next = new(Secret), new(Secret)
	copy(a.b[:], out[:32])
	copy(next.b[:], out[32:])
	return a, next
}

// NextEpoch turns the ratchet's M of epoch next-1 into that of next (docs/keying.md §2).
func NextEpoch(m *Secret, next uint64) *Secret {
	return expand(m, "epoch", binary.BigEndian.AppendUint64(make([]byte, 0, 8), next))
}

// SealKey is E of the epoch whose M is given: it seals rows (docs/keying.md §2).
func SealKey(m *Secret) *Secret {
	return expand(m, "seal", nil)
}

// tagAnd is the context most labels share: tag ‖ u32. It leaves room for what
// two of them append.
func tagAnd(t Tag, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 16), t[:]...), n)
}
