// Package ticket is the ticket role (Fig 2): it knows who a client is, and
// tells him which events there are for him.
//
//	password.go   argon2id, bounded
//	authority.go  the CA; certificates for clients, roles and the ticket signer
//	leaf.go       a role's TLS certificate, renewed by itself
//	signer.go     the key that signs tickets, renewed by itself
//	issuer.go     tickets: one a group, the same bytes for all its clients
//	handler.go    POST /v1/login, POST /v1/renew, GET /v1/tickets
//	server.go     these over TLS, within bounds
//
// New makes the role, Server.Serve runs it. docs/design.md §5 is its
// specification.
//
// A suspended client logs in and gets tickets like any other: a ticket opens
// nothing, the key role withholds his keys, and lifting the suspension needs no
// new login.
//
// The package must never hold an interval secret, tell an unknown name from a
// wrong password, or write a password or a key anywhere but in the CA's files.
package ticket
