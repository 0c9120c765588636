package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"usher/keyclient/derive"
)

// An answer is always as long as its request: nobody sees who was refused
// (docs/keying.md §5.2).
//
//	 0  type 1 | version 1 | length 2
//	 4  request id 16
//	20  nonce 12, random, first bit 1
//	32  sealed body (length − 48) ‖ tag 16, under Aⱼ,
//	    associated data = answer bytes 0…31 ‖ request bytes 0…39
const (
	answerHead     = 32
	answerOverhead = answerHead + 16
)

// BuildAnswer seals body under a = Aⱼ as the answer to request, a datagram that
// [ParseRequest] took. The nonce's first bit is set here; the rest is random.
func BuildAnswer(a *derive.Secret, request []byte, nonce [12]byte, body *Body) ([]byte, error) {
	if len(request) < MinRequest || len(request) > MaxDatagram {
		return nil, fmt.Errorf("%w: answer to a request of %d bytes", ErrEncode, len(request))
	}
	nonce[0] |= 0x80
	plain, err := body.Encode(len(request) - answerOverhead)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	out := make([]byte, 0, len(request))
	out = appendHeader(out, typeAnswer, len(request))
	out = append(out, request[offsetID:offsetCookie]...)
	out = append(out, nonce[:]...)
	return derive.NewAEAD(a).Seal(out, nonce[:], plain, answerData(out, request)), nil
}

// OpenAnswer opens the answer to request under a = Aⱼ. The error wraps ErrDrop:
// whatever does not open is dropped and counted (docs/keying.md §5.4).
func OpenAnswer(a *derive.Secret, request, answer []byte) (*Body, error) {
	switch {
	case len(request) < MinRequest || len(request) > MaxDatagram:
		return nil, drop("no request to this answer")
	case len(answer) != len(request):
		return nil, drop("answer of %d bytes to a request of %d", len(answer), len(request))
	case answer[0] != typeAnswer:
		return nil, drop("type %d is no answer", answer[0])
	case answer[1] != Version:
		return nil, drop("answer of version %d", answer[1])
	case int(binary.BigEndian.Uint16(answer[2:])) != len(answer):
		return nil, drop("length field does not match")
	case !bytes.Equal(answer[4:20], request[offsetID:offsetCookie]):
		return nil, drop("answer to another request")
	case answer[20]&0x80 == 0:
		return nil, drop("answer's nonce has first bit 0")
	}
	plain, err := derive.NewAEAD(a).Open(nil, answer[20:answerHead], answer[answerHead:], answerData(answer[:answerHead], request))
	if err != nil {
		return nil, drop("answer does not open")
	}
	defer clear(plain)
	return parseBody(plain, request[16]&flagPath != 0)
}

func answerData(head, request []byte) []byte {
	data := make([]byte, 0, answerHead+offsetCookie)
	return append(append(data, head[:answerHead]...), request[:offsetCookie]...)
}
