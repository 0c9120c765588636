//go:build !race

package tunnel_test

// libraryAllocations is how often a write of 40 packets may allocate.
const libraryAllocations = 0
