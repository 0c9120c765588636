package wire

import (
	"fmt"
	"io"
	"log/slog"

	"usher/keyclient/derive"
)

// Paths of the ticket role (docs/design.md §5, §6).
const (
	PathLogin   = "/v1/login"   // POST, no client certificate
	PathRenew   = "/v1/renew"   // POST, by the client certificate that runs out
	PathTickets = "/v1/tickets" // GET with If-None-Match, by client certificate
)

// LoginRequest asks for a client certificate over a key made on the client.
//
//	{"name": …, "password": …, "csr": DER}
//
// It shows itself as REDACTED wherever it is formatted.
type LoginRequest struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	CSR      Bytes  `json:"csr"` // PKCS #10, DER; only its key counts
}

// String returns REDACTED.
func (LoginRequest) String() string { return "REDACTED" }

// GoString returns REDACTED.
func (LoginRequest) GoString() string { return "REDACTED" }

// Format writes REDACTED for every verb.
func (LoginRequest) Format(f fmt.State, _ rune) { io.WriteString(f, "REDACTED") } //nolint:errcheck // fmt reports it

// LogValue returns REDACTED.
func (LoginRequest) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// RenewRequest asks for a new certificate in place of the one that made the
// connection.
//
//	{"csr": DER}
type RenewRequest struct {
	CSR Bytes `json:"csr"`
}

// LoginAnswer is the answer to both.
//
//	{"certificate": DER, "number": client number, "server_time_us": Unix time}
type LoginAnswer struct {
	Certificate  Bytes  `json:"certificate"`
	Number       uint32 `json:"number"`
	ServerTimeUS uint64 `json:"server_time_us"`
}

// TicketsAnswer holds every ticket of the client: one a group that it is in.
//
//	{"tickets": [ticket…], "sends": [event id…], "server_time_us": Unix time}
//
// The ETag is over tickets and sends, not the time.
type TicketsAnswer struct {
	Tickets      []Ticket         `json:"tickets"`
	Sends        []derive.EventID `json:"sends"` // events that this client is registered to send
	ServerTimeUS uint64           `json:"server_time_us"`
}

// MarshalJSON writes empty lists as [], since null is refused.
func (a TicketsAnswer) MarshalJSON() ([]byte, error) {
	type plain TicketsAnswer // without this method
	if a.Tickets == nil {
		a.Tickets = []Ticket{}
	}
	if a.Sends == nil {
		a.Sends = []derive.EventID{}
	}
	return encodeJSON(plain(a))
}
