// Package control is the agent's unix socket: what the commands may ask of a
// running agent, and how the answers look.
//
// The socket speaks HTTP/1.1 with JSON bodies under /v1/. [Listen] makes it,
// [Server] answers on it by asking a [Backend], and [Client] is what the
// commands use; they know nothing else of the agent. Times in answers are RFC
// 3339 in UTC, durations are named by their unit.
//
// Rights (docs/design.md §3, "Commands"): the socket is 0660 root:usher, so who
// may connect may look, join and leave. What changes the host (login, logout,
// up, down) or shows keys is asked of uid 0 by SO_PEERCRED; others get
// one sentence that says so.
//
// Whatever arrives on the socket, the agent runs on: bodies are capped, decoded
// strictly, and an odd request is an error answer, never a crash. The package
// never touches the network, never holds a key longer than one answer takes,
// and never logs a body.
package control
