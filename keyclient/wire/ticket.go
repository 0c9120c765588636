package wire

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Ticket is one group's, and byte-identical for all its clients
// (docs/design.md §5, Fig 4).
//
//	{"group": id, "entries": [bytes of an entry…], "certificate": JWS}
type Ticket struct {
	Group       string   // the group's id
	Entries     [][]byte // as they came: the certificate lists their hashes
	Certificate string   // JWS in compact form
}

const maxGroupID = 200 // bytes

type ticketJSON struct {
	Group       string  `json:"group"`
	Entries     []Bytes `json:"entries"`
	Certificate string  `json:"certificate"`
}

// MarshalJSON writes the ticket in its one spelling. That has encoding/json's
// HTML escapes: an encoder around it would put them in, and must change nothing.
func (t Ticket) MarshalJSON() ([]byte, error) {
	j := ticketJSON{Group: t.Group, Entries: make([]Bytes, 0, len(t.Entries)), Certificate: t.Certificate}
	for _, e := range t.Entries {
		j.Entries = append(j.Entries, e)
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads a ticket in exactly the spelling that MarshalJSON writes,
// so that no byte can be changed without notice.
func (t *Ticket) UnmarshalJSON(b []byte) error {
	var j ticketJSON
	if err := DecodeStrict(b, &j); err != nil {
		return err
	}
	out := Ticket{Group: j.Group, Certificate: j.Certificate}
	for _, e := range j.Entries {
		out.Entries = append(out.Entries, e)
	}
	if err := out.checkForm(); err != nil {
		return err
	}
	again, err := out.MarshalJSON()
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%w: ticket is not in its canonical spelling", ErrJSON)
	}
	*t = out
	return nil
}

// CheckGroup says whether a name can identify a group in tickets (Fig 4, 410): 1 to
// 200 bytes of printable UTF-8 without space at its ends. Server and client ask
// this one function, so that no group can be made whose tickets nobody reads.
func CheckGroup(name string) error {
	if name == "" || len(name) > maxGroupID || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, isControl) || strings.TrimSpace(name) != name {
		return fmt.Errorf("group %q: a name is 1 to %d bytes, printable, with no space at its ends", name, maxGroupID)
	}
	return nil
}

func (t *Ticket) checkForm() error {
	if err := CheckGroup(t.Group); err != nil {
		return fmt.Errorf("%w: %w", ErrJSON, err)
	}
	if len(t.Certificate) > MaxCertificate {
		return fmt.Errorf("%w: certificate of %d bytes", ErrTooBig, len(t.Certificate))
	}
	for i, e := range t.Entries {
		if len(e) > MaxEntry {
			return fmt.Errorf("%w: entry %d of %d bytes", ErrTooBig, i+1, len(e))
		}
	}
	return nil
}

// Encode writes the ticket in its one spelling; nil if it cannot be written.
func (t *Ticket) Encode() []byte {
	b, err := t.MarshalJSON()
	if err != nil {
		return nil
	}
	return b
}

// ParseTicket reads what Encode wrote. Nothing is verified yet: see
// [Ticket.Verify]. The error wraps ErrTooBig or ErrJSON.
func ParseTicket(b []byte) (*Ticket, error) {
	if len(b) > MaxTicket {
		return nil, fmt.Errorf("%w: ticket of %d bytes, at most %d", ErrTooBig, len(b), MaxTicket)
	}
	t := new(Ticket)
	if !json.Valid(b) {
		return nil, fmt.Errorf("%w: ticket", ErrJSON)
	}
	if err := t.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("ticket: %w", err)
	}
	return t, nil
}

// Verify checks the ticket against the CA in roots at the time now and returns
// its entries in their order. Exactly the entries that the certificate lists
// must be there. Errors are those of [VerifyCertificate], ErrEntryNotListed and
// those of [ParseEntry].
func (t *Ticket) Verify(roots *x509.CertPool, now time.Time) ([]*Entry, *TicketClaims, error) {
	claims, err := VerifyCertificate(t.Certificate, roots, now)
	if err != nil {
		return nil, nil, err
	}
	return t.verifyEntries(claims)
}

// VerifyHeld is Verify for a ticket out of the cache: signature and entries are
// checked, the time is not. Selectors of an expired ticket stay in force until
// a newer ticket lacks them (docs/design.md §3).
func (t *Ticket) VerifyHeld(roots *x509.CertPool) ([]*Entry, *TicketClaims, error) {
	claims, err := verifySignature(t.Certificate, roots)
	if err != nil {
		return nil, nil, err
	}
	return t.verifyEntries(claims)
}

func (t *Ticket) verifyEntries(claims *TicketClaims) ([]*Entry, *TicketClaims, error) {
	if claims.Group != t.Group {
		return nil, nil, fmt.Errorf("%w: it is group %q's, the ticket says %q", ErrEntryNotListed, claims.Group, t.Group)
	}
	if len(claims.Entries) != len(t.Entries) {
		return nil, nil, fmt.Errorf("%w: it lists %d, the ticket has %d", ErrEntryNotListed, len(claims.Entries), len(t.Entries))
	}
	entries := make([]*Entry, 0, len(t.Entries))
	for i, raw := range t.Entries {
		if HashEntry(raw) != claims.Entries[i] {
			return nil, nil, fmt.Errorf("%w: entry %d of group %q", ErrEntryNotListed, i+1, t.Group)
		}
		e, err := ParseEntry(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("group %q: %w", t.Group, err)
		}
		entries = append(entries, e)
	}
	return entries, claims, nil
}

// VerifyEntry checks one entry that is shown with its ticket's certificate
// alone, as a client does at enrolment. Errors are those of [Ticket.Verify].
func VerifyEntry(entry []byte, jws string, roots *x509.CertPool, now time.Time) (*Entry, *TicketClaims, error) {
	if len(entry) > MaxEntry {
		return nil, nil, fmt.Errorf("%w: entry of %d bytes, at most %d", ErrTooBig, len(entry), MaxEntry)
	}
	claims, err := VerifyCertificate(jws, roots, now)
	if err != nil {
		return nil, nil, err
	}
	hash := HashEntry(entry)
	for _, listed := range claims.Entries {
		if listed == hash {
			e, err := ParseEntry(entry)
			if err != nil {
				return nil, nil, err
			}
			return e, claims, nil
		}
	}
	return nil, nil, ErrEntryNotListed
}

// HashEntry is how a certificate lists an entry: base64url of SHA-256.
func HashEntry(entry []byte) string {
	sum := sha256.Sum256(entry)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
