package esp_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"usher/sa/esp"
)

// vector is a case of testdata/esp.json: a whole packet, or one with a byte changed (Expect is set).
type vector struct {
	Transform   string `json:"transform"`
	TransformID uint8  `json:"transform_id"`
	Key         string `json:"key"`
	Salt        string `json:"salt"`
	SPI         uint32 `json:"spi"`
	Seq         uint32 `json:"seq"`
	SenderID    uint64 `json:"sender_id"`
	Counter     uint64 `json:"counter"`
	Inner       string `json:"inner"`
	UDPPayload  string `json:"udp_payload"`
	Why         string `json:"why"`
	Expect      string `json:"expect"`
}

func (v vector) material(t *testing.T) []byte { return unhex(t, v.Key+v.Salt) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/esp.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []vector `json:"cases"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

// seal puts the inner packet where the path has it and seals it.
func seal(t testing.TB, c *esp.Cipher, inner []byte, spi, seq uint32, iv uint64, next uint8) []byte {
	t.Helper()
	buf := make([]byte, esp.SealedLen(len(inner)))
	copy(buf[esp.HeaderLen:], inner)
	packet := c.Seal(buf, len(inner), spi, seq, iv, next)
	if packet == nil {
		t.Fatal("Seal returned nil")
	}
	return packet
}

func nextHeaderOf(inner []byte) uint8 {
	if inner[0]>>4 == 6 {
		return esp.NextIPv6
	}
	return esp.NextIPv4
}

func TestVectors(t *testing.T) {
	done := map[string]int{}
	for i, v := range vectors(t) {
		if transform, err := esp.ParseTransform(v.Transform); err != nil {
			if uint8(transform) != v.TransformID || !errors.Is(err, esp.ErrNotInThisVersion) {
				t.Errorf("case %d: ParseTransform(%q) = %d, %v", i, v.Transform, transform, err)
			}
			done["refused"]++
			continue
		}
		c, err := esp.New(esp.Transform(v.TransformID), v.material(t))
		if err != nil {
			t.Fatalf("case %d: %v", i, err)
		}
		packet := unhex(t, v.UDPPayload)
		if v.Expect != "" {
			// The case "no SA" is the database's too (package sa): a changed SPI is additional data here.
			if inner, _, err := c.Open(packet); !errors.Is(err, esp.ErrBadICV) || inner != nil {
				t.Errorf("case %d, %s: %x, %v; want %v", i, v.Why, inner, err, esp.ErrBadICV)
			}
			done["changed"]++
			continue
		}
		inner := unhex(t, v.Inner)
		next := nextHeaderOf(inner)
		if got := seal(t, c, inner, v.SPI, v.Seq, v.SenderID<<48|v.Counter, next); !bytes.Equal(got, packet) {
			t.Errorf("case %d, %s: sealed\n%x, want\n%x", i, v.Transform, got, packet)
		}
		opened, gotNext, err := c.Open(packet)
		if err != nil || gotNext != next || !bytes.Equal(opened, inner) {
			t.Errorf("case %d, %s: opened %x, %d, %v; want %x, %d", i, v.Transform, opened, gotNext, err, inner, next)
		}
		done["whole"]++
	}
	if done["whole"] != 24 || done["changed"] != 14 || done["refused"] != 31 {
		t.Errorf("cases: %v", done)
	}
}

// TestPublishedPackets has the whole packets of RFC 7634 Appendix A and of draft-mcgrew-gcm-test-01
// (the AES-256 case whose "next header" is 1: no tunnel mode, so that Open stops there).
func TestPublishedPackets(t *testing.T) {
	for _, tc := range []struct {
		name          string
		transform     esp.Transform
		material      string
		spi, seq      uint32
		iv            uint64
		next          uint8
		inner, packet string
		openErr       error
	}{
		{
			name: "RFC 7634 Appendix A", transform: esp.ChaCha20Poly1305,
			material: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3",
			spi:      0x01020304, seq: 5, iv: 0x1011121314151617, next: 4,
			inner: "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec1000073627" +
				"08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
			packet: "0102030400000005101112131415161724039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6" +
				"14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da" +
				"9165b82829f641e076aaa8266b7fb0f7b11b369907e1ad43",
		},
		{
			name: "draft-mcgrew-gcm-test-01, AES-256", transform: esp.AES256GCM,
			material: "abbccddef00112233445566778899aababbccddef00112233445566778899aab11223344",
			spi:      0x4a2cbfe3, seq: 2, iv: 0x0102030405060708, next: 1,
			inner: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000" +
				"7002400020bf0000020405b401010402",
			packet: "4a2cbfe3000000020102030405060708ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763" +
				"748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c4915956c96",
			openErr: esp.ErrBadNextHeader,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := esp.New(tc.transform, unhex(t, tc.material))
			if err != nil {
				t.Fatal(err)
			}
			inner, want := unhex(t, tc.inner), unhex(t, tc.packet)
			if got := seal(t, c, inner, tc.spi, tc.seq, tc.iv, tc.next); !bytes.Equal(got, want) {
				t.Errorf("sealed\n%x, want\n%x", got, want)
			}
			opened, next, err := c.Open(want)
			if !errors.Is(err, tc.openErr) {
				t.Errorf("opened: %v, want %v", err, tc.openErr)
			}
			if err == nil && (next != tc.next || !bytes.Equal(opened, inner)) {
				t.Errorf("opened %x, %d", opened, next)
			}
		})
	}
}

// rawPacket seals a plaintext as it stands, padding and trailer included, by the AEAD alone: what an
// honest Seal never makes. The plaintext must be whole words.
func rawPacket(t testing.TB, transform esp.Transform, material, plaintext []byte) []byte {
	t.Helper()
	packet := make([]byte, esp.HeaderLen, esp.HeaderLen+len(plaintext)+esp.ICVLen)
	binary.BigEndian.PutUint32(packet, 0x1000)
	binary.BigEndian.PutUint32(packet[4:], 1)
	binary.BigEndian.PutUint64(packet[8:], 7)
	nonce := append(bytes.Clone(material[esp.KeyLen:]), packet[8:16]...)
	return referenceAEAD(t, transform, material[:esp.KeyLen]).Seal(packet, nonce, plaintext, packet[:8])
}
