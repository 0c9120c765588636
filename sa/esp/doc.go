// Package esp seals and opens one ESP packet in tunnel mode (RFC 4303), in place and without
// allocating. The two transforms of this version are AES-256-GCM (RFC 4106) and ChaCha20-Poly1305
// (RFC 7634); both lay a packet out as
//
//	 0  SPI                     4 bytes ┐ additional data
//	 4  sequence number         4 bytes ┘
//	 8  IV                      8 bytes   sender id 16 bits ‖ counter 48 bits (RFC 6054)
//	16  inner packet            ┐
//	    padding 1, 2, 3 …       │ encrypted
//	    pad length              │ 1 byte, to a multiple of 4 bytes in all
//	    next header             ┘ 1 byte: 4 IPv4, 41 IPv6, 59 dummy
//	    ICV                    16 bytes
//
// The nonce is salt ‖ IV. Start with [New]. The package must never choose an IV or a sequence number:
// who calls [Cipher.Seal] guarantees that no IV comes twice under one key (docs/keying.md §6).
// It must never keep, print or log key material.
package esp
