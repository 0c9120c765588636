package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"usher/cmd/usher/control"
)

// The exit statuses; doc.go says what they mean.
const (
	exitOK               = 0
	exitFailed           = 1
	exitUsage            = 2
	exitNoAgent          = 3
	exitNoRight          = 4
	exitNotLoggedIn      = 5
	exitNotInThisVersion = 6
)

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// quietError is an error whose sentence was already given.
type quietError struct{ status int }

func (e *quietError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// failure is an error as a person or a program is told of it.
type failure struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// explain gives each error its sentence, its hint and its exit status.
func (a *app) explain(err error) failure {
	if e, ok := errors.AsType[*control.Error](err); ok {
		f := failure{status: exitFailed, Code: string(e.Code), Message: e.Message, Hint: e.Hint}
		switch e.Code {
		case control.CodeForbidden:
			f.status = exitNoRight
		case control.CodeNotLoggedIn:
			f.status = exitNotLoggedIn
		case control.CodeNotInThisVersion:
			f.status = exitNotInThisVersion
		}
		return f
	}
	if e, ok := errors.AsType[*usageError](err); ok {
		return failure{status: exitUsage, Code: "usage", Message: e.text, Hint: "usher help"}
	}
	switch {
	case errors.Is(err, control.ErrNoAgent):
		return failure{status: exitNoAgent, Code: "no_agent",
			Message: "no agent is running: nothing answers at " + a.socket,
			Hint:    "sudo systemctl start usher-agent, or in the foreground: sudo usher agent"}
	case errors.Is(err, control.ErrNoRight):
		return failure{status: exitNoRight, Code: "no_right",
			Message: "you may not talk to the agent: its socket " + a.socket + " is for root and the group " + control.Group,
			Hint:    "sudo; or once: sudo groupadd -f " + control.Group + ", sudo usermod -aG " + control.Group + " $USER, restart the agent and log in again"}
	case errors.Is(err, context.Canceled):
		return failure{status: exitFailed, Code: "interrupted", Message: "interrupted"}
	}
	return failure{status: exitFailed, Code: "failed", Message: err.Error()}
}

// report tells of an error, if there is one, and returns the exit status.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*quietError](err); ok {
		return e.status
	}
	f := a.explain(err)
	if a.json {
		// Stdout's reader wants one value, whatever happens.
		json.NewEncoder(a.out).Encode(map[string]failure{"error": f}) //nolint:errcheck,errchkjson // nowhere left to tell
		return f.status
	}
	fmt.Fprintf(a.err, "usher: %s\n", f.Message)
	if f.Hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", f.Hint)
	}
	return f.status
}
