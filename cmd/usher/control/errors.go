package control

import (
	"errors"
	"fmt"
	"net/http"
)

// Sentinels of this package.
var (
	// ErrNoAgent says that nothing answers at the socket.
	ErrNoAgent = errors.New("control: no agent is running")
	// ErrNoRight says that the caller may not open the socket.
	ErrNoRight = errors.New("control: no right to the agent's socket")
	// ErrRunning says that another agent holds the socket.
	ErrRunning = errors.New("control: an agent is already running")
	// ErrAnswer says that what answers at the socket is not an agent.
	ErrAnswer = errors.New("control: the answer is not an agent's")
)

// Code names the kind of a refusal, for programs; it never changes its meaning.
type Code string

// The codes that an answer may carry.
const (
	CodeBadRequest       Code = "bad_request"
	CodeForbidden        Code = "forbidden"
	CodeNotFound         Code = "not_found"
	CodeNotLoggedIn      Code = "not_logged_in"
	CodeNoSuchEvent      Code = "no_such_event"
	CodeAmbiguous        Code = "ambiguous"
	CodeNotInThisVersion Code = "not_in_this_version"
	CodeConfig           Code = "config"
	CodeServer           Code = "server"
	CodeHost             Code = "host"
	CodeDown             Code = "down"
	CodeInternal         Code = "internal"
)

// status is the HTTP status that goes with a code.
func (c Code) status() int {
	switch c {
	case CodeBadRequest, CodeAmbiguous:
		return http.StatusBadRequest
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound, CodeNoSuchEvent:
		return http.StatusNotFound
	case CodeNotLoggedIn, CodeDown, CodeConfig:
		return http.StatusConflict
	case CodeNotInThisVersion:
		return http.StatusNotImplemented
	case CodeServer, CodeHost:
		return http.StatusBadGateway
	default:
		return http.StatusInternalServerError
	}
}

// Error is a refusal as it crosses the socket: one sentence that says what is
// wrong and where, and, where there is something to type, a hint.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the sentence alone; the command prints the hint below it.
func (e *Error) Error() string { return e.Message }

// Errorf makes a refusal of the given code.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithHint returns a copy of e that says what to type.
func (e *Error) WithHint(hint string) *Error {
	c := *e
	c.Hint = hint
	return &c
}

// AsError turns any error into one that can be sent: an *Error in its chain is
// kept, all else becomes internal with its text.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error()}
}
