// Package server assembles the management server: the store, and the roles
// ticket and key over it, in one process or each in one of its own.
//
//	config.go    server.toml
//	setup.go     Setup: CA, keys, database of a new server
//	server.go    New, Run: the roles at work
//	event.go     EventSpec: what an operator says of an event, checked
//	schedule.go  when an event takes place, and what it would collide with
//	register.go  changes that need more than one look at the store
//
// The roles share the store and nothing else: the ticket role reads it at each
// request, the key role follows its change log every 200 ms. So usher-server's
// commands open the store themselves, and a running server sees what they did.
//
// The package must never import the packet path or the client, and never let
// an event in that this version cannot serve.
package server
