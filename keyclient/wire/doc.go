// Package wire is what client and server say to each other: one file a message,
// its layout drawn at the top.
//
//	login.go                     ticket role: login, renewal, tickets (JSON over TLS)
//	ticket.go entry.go           a group's ticket and its entries (docs/design.md §5, Fig 4)
//	certificate.go               the ticket's certificate, a JWS
//	enrol.go                     key role: enrolment and grant (docs/keying.md §4)
//	request.go answer.go body.go key role: refresh (docs/keying.md §5.1, §5.2)
//	cookie.go nak.go
//	problem.go                   errors by HTTPS (RFC 9457)
//
// Every parser is total: it returns a value or an error, never both, never
// panics, looks at sizes before it allocates, and refuses what it does not
// know. JSON goes through [DecodeStrict].
//
// The package must never do I/O, read a clock, or decide who may have what.
package wire
