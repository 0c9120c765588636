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
//	client.go              assembly, and what all share
//	login.go identity.go   login, logout, renewal; key and certificate
//	trust.go transport.go  the pinned CA; HTTPS to both roles
//	tickets.go policies.go fetched, verified, cached; selectors into sa
//	events.go view.go      what a person sees
//	join.go membership.go  what is joined, and its occurrences
//	session.go exchange.go one occurrence: drives schedule.Machine by requests
//	grant.go install.go    what a server gave: checked, then into sa
//	state.go               files under the state folder
//
// The schedule of requests is a pure step function in package schedule; this
// package only carries out what it says.
//
// The package must never write a traffic key or step secret to disk or log,
// never take a clear packet for a reason to lift a policy, and never import
// package tunnel: the two meet in the sa database.
package keyclient
