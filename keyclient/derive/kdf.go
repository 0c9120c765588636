package derive

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
)

// KDF is HKDF-Expand over SHA-256 with info "usher1 " ‖ label ‖ 0x00 ‖ context
// (docs/keying.md §1, RFC 5869 §2.3). n is at most 8160. The caller wipes the
// result where it is secret.
//
// The expansion is written out because crypto/hkdf can return an error, which
// a caller could only turn into a key of zeros; here there is none to return.
func KDF(k *Secret, label string, context []byte, n int) []byte {
	info := make([]byte, 0, len("usher1 ")+len(label)+1+len(context)+1)
	info = append(info, "usher1 "...)
	info = append(info, label...)
	info = append(info, 0)
	info = append(info, context...)

	mac := hmac.New(sha256.New, k.b[:])
	out := make([]byte, 0, (n+sha256.Size-1)/sha256.Size*sha256.Size)
	for block := byte(1); len(out) < n; block++ {
		mac.Reset()
		if last := len(out); last > 0 {
			mac.Write(out[last-sha256.Size:])
		}
		mac.Write(info)
		mac.Write([]byte{block})
		out = mac.Sum(out)
	}
	clear(out[n:cap(out)])
	return out[:n:n]
}

// Extract is HKDF-Extract over SHA-256, X(salt, ikm) of docs/keying.md §1.
func Extract(salt, ikm *Secret) *Secret {
	mac := hmac.New(sha256.New, salt.b[:])
	mac.Write(ikm.b[:])
	s := new(Secret)
	mac.Sum(s.b[:0])
	return s
}

// MAC is the first 16 bytes of HMAC-SHA-256 (docs/keying.md §1).
func MAC(k *Secret, message []byte) [16]byte {
	mac := hmac.New(sha256.New, k.b[:])
	mac.Write(message)
	var full [sha256.Size]byte
	mac.Sum(full[:0])
	return [16]byte(full[:16])
}

// NewAEAD is the AEAD of docs/keying.md §1: AES-256-GCM with nonces of 12 bytes
// and tags of 16. The key's length is fixed by its type, so nothing can fail.
func NewAEAD(k *Secret) cipher.AEAD {
	block, _ := aes.NewCipher(k.b[:])
	aead, _ := cipher.NewGCM(block)
	return aead
}

// expand is KDF for a result that is itself a secret.
func expand(k *Secret, label string, context []byte) *Secret {
	out := KDF(k, label, context, 32)
	s := new(Secret)
	copy(s.b[:], out)
	clear(out)
	return s
}
