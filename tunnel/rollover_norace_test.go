//go:build !race

package tunnel_test

// rolloverRate is in datagrams a second.
const rolloverRate = 40_000
