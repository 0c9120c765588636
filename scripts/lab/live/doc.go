// Package live drives the two programs, usher and usher-server, as their users
// do: by their commands and --json, on hosts of a lab, with programs that send
// and receive plain UDP. Each test is one short story with its own network.
//
// There is nothing to call: the tests are the package. What they count comes from
// the sockets of the programs, from captures on the bridge, and from what the
// commands print. Instants are never compared with a clock of the test: the order
// of packets and the change of SPIs say what came before what.
//
// It must never import a package of the product: what these tests know of it is
// what a user can know.
package live
