package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"usher/keyclient/schedule"
	"usher/keyclient/wire"
	"usher/server"
	"usher/server/group"
	"usher/server/store"
)

// The exit statuses; doc.go says what they mean.
const (
	exitOK               = 0
	exitFailed           = 1
	exitUsage            = 2
	exitNotInThisVersion = 6
)

// usageError is a command line that makes no sense.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// failure is an error as a person or a program is told of it.
type failure struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"`
}

// codes of errors, for programs; the first that fits counts.
var codes = []struct {
	err  error
	code string
}{
	{store.ErrNotFound, "not_found"}, {store.ErrExists, "exists"}, {group.ErrCycle, "cycle"},
	{store.ErrFull, "full"}, {store.ErrReadOnly, "read_only"}, {store.ErrCorrupt, "damaged"},
	{store.ErrNewerSchema, "newer_schema"}, {store.ErrBusy, "busy"},
	{server.ErrConflict, "conflict"}, {server.ErrEvent, "bad_event"}, {server.ErrAmbiguous, "ambiguous"},
	{server.ErrNotRunning, "not_running"}, {server.ErrUnreached, "unreached"},
	{server.ErrSetUp, "already_set_up"}, {server.ErrNotSetUp, "not_set_up"}, {fs.ErrPermission, "no_right"},
}

func explain(err error) failure {
	f := failure{status: exitFailed, Code: "failed", Message: plain(err)}
	if _, ok := errors.AsType[*usageError](err); ok {
		f.status, f.Code = exitUsage, "usage"
		return f
	}
	for _, later := range []error{server.ErrNotInThisVersion, wire.ErrNotInThisVersion, schedule.ErrNotInThisVersion} {
		if errors.Is(err, later) {
			f.status, f.Code = exitNotInThisVersion, "not_in_this_version"
			return f
		}
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			f.Code = c.code
			return f
		}
	}
	return f
}

// plain is an error's text, a line for each fault, without the names of packages
// that lines begin with.
func plain(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i, text := range lines {
		name, rest, ok := strings.Cut(text, ": ")
		for ok && slices.Contains(packages, name) {
			text = rest
			name, rest, ok = strings.Cut(text, ": ")
		}
		lines[i] = text
	}
	return strings.Join(lines, "\n")
}

// packages are whose names errors begin with; they are for developers.
var packages = []string{"store", "server", "group", "ticket", "key", "wire", "schedule"}

// report tells of an error, if there is one, and returns the exit status.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	f := explain(err)
	if a.json {
		// Stdout's reader wants one value, whatever happens.
		json.NewEncoder(a.out).Encode(map[string]failure{"error": f}) //nolint:errcheck,errchkjson // nowhere left to tell
		return f.status
	}
	fmt.Fprintf(a.err, "usher-server: %s\n", f.Message)
	if f.status == exitUsage {
		fmt.Fprintln(a.err, "hint: usher-server help")
	}
	return f.status
}
