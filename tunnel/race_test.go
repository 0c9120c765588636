//go:build race

package tunnel_test

// libraryAllocations is how often a write of 40 packets may allocate. With the
// race detector the compiler makes a buffer of each append(b, make(…)…), of
// which the library has one for each packet that it merges.
const libraryAllocations = 39
