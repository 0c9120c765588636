package wire

import (
	"errors"
	"fmt"
)

// Errors of this package. They are wrapped with what is wrong and where.
var (
	// ErrDrop marks a binary message that is discarded without an answer (docs/keying.md §5.3).
	ErrDrop = errors.New("wire: message dropped")
	// ErrEncode marks a message that cannot be written as asked.
	ErrEncode = errors.New("wire: message cannot be encoded")
	// ErrJSON marks a JSON message that is not of the form that it must have.
	ErrJSON = errors.New("wire: bad JSON message")
	// ErrTooBig marks input beyond the cap of its kind; it is not looked at.
	ErrTooBig = errors.New("wire: message too big")
	// ErrEntry marks an entry whose content makes no event.
	ErrEntry = errors.New("wire: bad entry")
	// ErrNotInThisVersion marks what is well formed and cannot be done yet.
	ErrNotInThisVersion = errors.New("not in this version")
	// ErrESPPort marks a flow that includes the port of ESP in UDP: its
	// ciphertext would be taken for cleartext to protect.
	ErrESPPort = errors.New("wire: flow includes the ESP port")

	// ErrMalformed marks a ticket certificate that is no JWS of our form.
	ErrMalformed = errors.New("wire: malformed ticket certificate")
	// ErrBadSignature marks a ticket certificate whose signature is wrong.
	ErrBadSignature = errors.New("wire: ticket certificate's signature is wrong")
	// ErrOtherServer marks a ticket certificate that another server's CA stands for.
	ErrOtherServer = errors.New("wire: ticket is another server's")
	// ErrNotTicketSigner marks a certificate of our CA that may not sign tickets.
	ErrNotTicketSigner = errors.New("wire: certificate may not sign tickets")
	// ErrExpired marks a ticket whose validity is over.
	ErrExpired = errors.New("wire: ticket has expired")
	// ErrNotYetValid marks a ticket whose validity has not begun.
	ErrNotYetValid = errors.New("wire: ticket is not valid yet")
	// ErrEntryNotListed marks an entry that the certificate does not list:
	// changed, or moved from another ticket.
	ErrEntryNotListed = errors.New("wire: ticket's certificate does not list this entry")
)

// NAKError is what [ParseRequest] returns for a request that is answered by a NAK.
type NAKError struct {
	ID   [16]byte // the request's id
	Code uint8    // NAKUnknownTag and so on
}

// Error says which NAK.
func (e *NAKError) Error() string {
	return fmt.Sprintf("wire: request is answered by NAK %d", e.Code)
}

func drop(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDrop, fmt.Sprintf(format, args...))
}
