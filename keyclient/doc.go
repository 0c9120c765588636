// Package keyclient is the client's side of keying: it logs in, holds tickets,
// asks key servers for the key of each interval, and installs what it gets into
// the sa database, where the packet path finds it.
//
// Entry point: [New] takes a [Config], loads what the host remembers and puts
// the policies of all held tickets into force; [Client.Run] does the rest until
// its context ends: it renews the certificate, fetches tickets, and keys each
// joined event at each of its occurrences, with nobody logged in. All other
// methods may be called at any time and from any goroutine. [Client.Changed]
// tells of news.
//
// What is where:
//
//	client.go identity.go  assembly; key, certificate and first trust
//	transport.go           HTTPS to both roles
//	tickets.go policies.go fetched, verified, cached; selectors into sa
//	events.go join.go      what a person sees and asks for
//	session.go install.go  one joined occurrence: drives schedule.Machine, installs SAs
//	state.go               files under the state folder
//
// The schedule of requests is a pure step function in package schedule; this
// package only carries out what it says.
//
// The package must never write a traffic key or step secret to disk or log,
// never take a clear packet for a reason to lift a policy, and never import
// package tunnel: the two meet in the sa database.
package keyclient
