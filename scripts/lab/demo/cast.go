package main

import "time"

// The cast and the script. Everything in the lab follows from these.
const (
	labPrefix = "demo"
	title     = "Evening News"
	group     = "232.1.2.3"
	port      = 5004 // of the stream
	espPort   = 4500 // of the ciphertext

	interval       = 5 * time.Second
	initial        = 6 * time.Second
	intervals      = 8
	untilStart     = 8 * time.Second         // from the event's creation
	senderEndsAt   = 1200 * time.Millisecond // before the event's end, so that its last frame is whole
	playerPatience = 5 * time.Second         // ffmpeg's timeout: longer than any gap, and it flushes the last frame
	framesASecond  = 25
	datagramLen    = 1316 // bytes of the stream in a datagram: seven packets of MPEG-TS
)

// addresses of the hosts; mallory has no ticket, the server sends no picture.
var addresses = map[string]string{
	"server":  "10.77.0.1/24",
	"sender":  "10.77.0.2/24",
	"alice":   "10.77.0.11/24",
	"bob":     "10.77.0.12/24",
	"carol":   "10.77.0.13/24",
	"mallory": "10.77.0.66/24",
}

// hostNames is the order in which hosts are made and shown.
var hostNames = []string{"server", "sender", "alice", "bob", "carol", "mallory"}

// receivers are those that hold a ticket and play.
var receivers = []string{"alice", "bob", "carol"}

const senderAddress = "10.77.0.2"

// The script, in time since the event's start.
var (
	playersStart   = -3 * time.Second
	malloryInjects = 2 * time.Second
	bobKilled      = at(1, 1*time.Second)
	bobRestarted   = bobKilled + 800*time.Millisecond
	serversStop    = at(3, 1500*time.Millisecond)
	serversStart   = serversStop + 1600*time.Millisecond
	carolJoins     = at(4, 300*time.Millisecond)
	carolListens   = carolJoins - 2*time.Second
	bobSuspended   = at(4, 1500*time.Millisecond)
	// A suspension reaches the key role within half a second; what bob holds
	// a second after it is what he will ever hold.
	bobAsked   = bobSuspended + time.Second
	streamEnds = at(intervals, -senderEndsAt)
	allOver    = streamEnds + playerPatience + 500*time.Millisecond
)

// at is an instant within interval i, since the event's start.
func at(i int, within time.Duration) time.Duration {
	return time.Duration(i)*interval + within
}
