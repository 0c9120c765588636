package wire

import (
	"crypto/cipher"
	"encoding/binary"

	"usher/keyclient/derive"
)

// Cookie is the server's memory of one client, kept by the client: sealed under
// Wₙ, the cookie key of interval n (docs/keying.md §5.1).
//
//	  0                12                                    60         76
//	+----------------+--------------------------------------+----------+
//	| nonce 12       | sealed 48                            | tag 16   |
//	+----------------+--------------------------------------+----------+
//	sealed:  0 client number 4 | 4 enrolled until 4 (s) | 8 first 4
//	        12 role 1 | 13 zero 1 | 14 edition 2 | 16 K 32
//	associated data: version 1 ‖ tag 8 ‖ n 4
type Cookie struct {
	Number        uint32 // the client's
	EnrolledUntil uint32 // Unix time, s; at most the end of its certificate
	First         uint32 // first interval not yet given
	Role          Role
	Edition       uint16         // of the event's settings when the client enrolled
	K             *derive.Secret // Kⱼ, the step secret that client and cookie share
}

const cookiePlainLen = 48

// Seal encrypts the cookie under w, the AEAD of Wₙ. The nonce must be random.
func (c *Cookie) Seal(w cipher.AEAD, tag derive.Tag, n uint32, nonce [12]byte) [CookieLen]byte {
	var plain [cookiePlainLen]byte
	defer clear(plain[:])
	binary.BigEndian.PutUint32(plain[0:], c.Number)
	binary.BigEndian.PutUint32(plain[4:], c.EnrolledUntil)
	binary.BigEndian.PutUint32(plain[8:], c.First)
	plain[12] = uint8(c.Role)
	binary.BigEndian.PutUint16(plain[14:], c.Edition)
	copy(plain[16:], c.K.Bytes())

	var out [CookieLen]byte
	copy(out[:], nonce[:])
	w.Seal(out[12:12], nonce[:], plain[:], cookieData(tag, n))
	return out
}

// OpenCookie opens a cookie numbered n of occurrence tag. The error is ErrDrop:
// another key, number, occurrence or a changed byte look alike.
func OpenCookie(w cipher.AEAD, tag derive.Tag, n uint32, b []byte) (*Cookie, error) {
	if len(b) != CookieLen {
		return nil, drop("cookie of %d bytes, not %d", len(b), CookieLen)
	}
	plain, err := w.Open(make([]byte, 0, cookiePlainLen), b[:12], b[12:], cookieData(tag, n))
	if err != nil {
		return nil, drop("cookie does not open")
	}
	defer clear(plain)
	if plain[12] > uint8(RoleSend) || plain[13] != 0 {
		return nil, drop("cookie of unknown form")
	}
	k, err := derive.NewSecret(plain[16:])
	if err != nil {
		return nil, drop("cookie without a step secret")
	}
	return &Cookie{
		Number:        binary.BigEndian.Uint32(plain[0:]),
		EnrolledUntil: binary.BigEndian.Uint32(plain[4:]),
		First:         binary.BigEndian.Uint32(plain[8:]),
		Role:          Role(plain[12]),
		Edition:       binary.BigEndian.Uint16(plain[14:]),
		K:             k,
	}, nil
}

func cookieData(tag derive.Tag, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(append(make([]byte, 0, 13), Version), tag[:]...), n)
}
