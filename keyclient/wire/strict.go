package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Caps on JSON input, in bytes. Readers cut off one byte above, so that what is
// too big is refused before it is parsed.
const (
	MaxLoginMessage  = 16 << 10
	MaxEntry         = 64 << 10
	MaxCertificate   = 1 << 20 // some 20,000 entries' hashes
	MaxTicket        = 16 << 20
	MaxTicketsAnswer = 64 << 20
	MaxEnrolRequest  = MaxCertificate + 2*MaxEntry
	MaxGrant         = 64 << 10
	MaxProblem       = 4 << 10
)

const maxDepth = 16 // nesting of objects and arrays; our messages have 6

// DecodeStrict reads exactly one JSON object into the struct that into points
// to. Beyond what encoding/json refuses by itself it refuses unknown names, a
// name given twice, names in another case, null, text that is no UTF-8, and
// anything behind the object. The error wraps ErrJSON; into is then undefined.
//
// All names of our messages are lower-case ASCII. That makes the other case
// easy to refuse: encoding/json would take NAME, and even the Kelvin sign in
// place of k, for name.
func DecodeStrict(data []byte, into any) error {
	if err := checkNames(data); err != nil {
		return fmt.Errorf("%w: %w", ErrJSON, err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, ErrJSON) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrJSON, err)
	}
	return nil
}

// container is one object or array that the reader is in.
type container struct {
	names map[string]bool // nil: an array
	value bool            // in an object: a value comes next, not a name
}

// checkNames walks over the whole input once, without recursion.
func checkNames(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("text is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var in []container
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			if len(in) == 0 {
				return errors.New("no object")
			}
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if len(in) == 0 && token != json.Delim('{') {
			return errors.New("not an object")
		}
		if len(in) > 0 && token != json.Delim('}') && token != json.Delim(']') {
			top := &in[len(in)-1]
			if name, isName := token.(string); isName && top.names != nil && !top.value {
				if err := top.take(name); err != nil {
					return err
				}
				continue
			}
			top.value = false
		}
		switch token {
		case nil:
			return errors.New("null: leave the name out instead")
		case json.Delim('{'):
			in = append(in, container{names: make(map[string]bool)})
		case json.Delim('['):
			in = append(in, container{})
		case json.Delim('}'), json.Delim(']'):
			in = in[:len(in)-1]
		}
		if len(in) > maxDepth {
			return errors.New("nested too deeply")
		}
		if len(in) == 0 {
			return atEnd(d)
		}
	}
}

// take notes a name of the object; its value comes next.
func (c *container) take(name string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return fmt.Errorf("unknown name %q", name)
	}
	if c.names[name] {
		return fmt.Errorf("name %q is there twice", name)
	}
	c.names[name], c.value = true, true
	return nil
}

func atEnd(d *json.Decoder) error {
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// Bytes is binary data in JSON: base64url without padding (docs/keying.md §4),
// in its one canonical spelling.
type Bytes []byte

// MarshalText writes base64url.
func (b Bytes) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads base64url and refuses other spellings of the same bytes.
func (b *Bytes) UnmarshalText(text []byte) error {
	out, err := decodeBase64URL(string(text))
	if err != nil {
		return err
	}
	*b = out
	return nil
}

func decodeBase64URL(s string) ([]byte, error) {
	// The package's decoder skips line breaks: they would be a second spelling.
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break in base64url")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

// fixed copies b into dst if it has exactly that length.
func fixed(dst []byte, b Bytes, name string) error {
	if len(b) != len(dst) {
		return fmt.Errorf("%s has %d bytes, not %d", name, len(b), len(dst))
	}
	copy(dst, b)
	return nil
}

// encodeJSON writes v without HTML escapes and without a line break at the end,
// so that equal values have equal bytes and texts stay readable.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncode, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
