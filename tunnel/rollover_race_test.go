//go:build race

package tunnel_test

// rolloverRate is what the loops can do under the race detector, in datagrams
// a second.
const rolloverRate = 4000
