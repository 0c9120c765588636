// Package stream counts what became of a video stream, from what ffmpeg, tcpdump
// and tshark wrote down: which frames were sent and decoded (ReadFrames), which
// datagrams passed a place (ReadCapture), which frame lies in which datagrams
// (Frames), and what was lost between two places (Lost).
//
// It reads files and never asks the product: what the product says of itself is
// no proof. It must never guess: what it cannot read is an error.
package stream
