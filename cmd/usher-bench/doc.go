// Command usher-bench loads a network path with numbered datagrams and tells what
// became of them. It is what scripts/bench measures with, and serves as well
// between two hosts of one's own:
//
//	usher-bench sink --listen 232.1.2.3:5004 --source 10.77.0.2 --json
//	usher-bench send --to 232.1.2.3:5004 --rate 42000 --burst 42 --for 5s --json
//
// send paces datagrams evenly or in bursts, with or without UDP_SEGMENT, of one
// size or of mixed sizes. sink counts what is lost, doubled, reordered and
// damaged, how long each took, and apart from all that what its own socket's
// buffer lost. ping and echo measure a round trip, also over a pair of groups,
// one a direction. forge is the attacker of a test: it floods a group's ESP port
// with packets that no member made.
//
// Latencies are differences of CLOCK_MONOTONIC, so both ends must be on one
// machine; all else holds between machines, too. The command knows nothing of
// Usher's keys and packets but ESP's header, which forge imitates. It must only
// be pointed at networks of one's own, which is why forge asks for the source
// that it shall forge and has no default destination.
package main
