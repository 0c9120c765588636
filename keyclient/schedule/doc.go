// Package schedule holds the rules of time: which interval of an occurrence
// runs when, when its key may be fetched and given, when an event occurs,
// what the server's clock says, and what a client does next.
//
// It has four parts, each usable alone:
//
//   - [Timing] is one occurrence; [Timing.Decide] is the key server's verdict
//     on a refresh, [Timing.SenderKey] and [Timing.SendSpan] say which key a
//     sender may use (docs/keying.md §§1, 5.2, 5.3, 6).
//   - [TimeExpression] is the recurrence of an event (RFC 5545) and
//     [TimeExpression.Next] lists its occurrences.
//   - [Offset] is the server's clock as a client knows it, with the bound of
//     its error (docs/keying.md §6, "Sender clock").
//   - [Machine] is the client of docs/keying.md §§5.4-5.5 as one pure
//     function, [Machine.Step]: state, event, time and random numbers in, new
//     state and actions out.
//
// Client and server share it, so that neither can hold another opinion about
// an instant than the other. It must never read a clock, draw a random number
// by itself, start a goroutine, or touch a socket or a file (the one
// exception: package time may read a zone file of the host; the zones are
// embedded for hosts without).
//
// Wall times are Unix time in ms (names end in MS); times of CLOCK_BOOTTIME are
// in ns (names end in BootNS).
package schedule
