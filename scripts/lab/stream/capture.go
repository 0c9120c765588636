package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Datagram is a UDP datagram that a capture saw.
type Datagram struct {
	At          time.Time
	HardwareSrc string // sender's Ethernet address; empty on a TUN, which has none
	Source      netip.Addr
	Destination netip.Addr
	Port        uint16 // destination port
	Payload     []byte
}

// captureFields are what tshark is asked for, in the order of Datagram.
var captureFields = []string{"frame.time_epoch", "eth.src", "ip.src", "ip.dst", "udp.dstport", "udp.payload"}

// ReadCapture returns the UDP datagrams of a capture that pass tshark's display
// filter, in the order in which they were seen.
func ReadCapture(ctx context.Context, file, filter string) ([]Datagram, error) {
	args := []string{"-r", file, "-Y", filter, "-T", "fields", "-E", "separator=;", "-E", "occurrence=f",
		// Payload as it is: nothing may take the datagrams for a protocol and
		// reassemble them.
		"--disable-protocol", "esp", "--disable-protocol", "udpencap", "--disable-protocol", "mp2t"}
	for _, field := range captureFields {
		args = append(args, "-e", field)
	}
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, "tshark", args...)
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("tshark -r %s: %w: %s", file, err, strings.TrimSpace(stderr.String()))
	}
	var datagrams []Datagram
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		datagram, err := parseDatagram(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("tshark -r %s: %w", file, err)
		}
		datagrams = append(datagrams, datagram)
	}
	return datagrams, lines.Err()
}

func parseDatagram(line string) (Datagram, error) {
	fields := strings.Split(line, ";")
	if len(fields) != len(captureFields) {
		return Datagram{}, fmt.Errorf("line %q has %d fields, want %d", line, len(fields), len(captureFields))
	}
	seconds, nanos, _ := strings.Cut(fields[0], ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return Datagram{}, fmt.Errorf("time %q: %w", fields[0], err)
	}
	ns, err := strconv.ParseInt((nanos + "000000000")[:9], 10, 64)
	if err != nil {
		return Datagram{}, fmt.Errorf("time %q: %w", fields[0], err)
	}
	source, err := netip.ParseAddr(fields[2])
	if err != nil {
		return Datagram{}, err
	}
	destination, err := netip.ParseAddr(fields[3])
	if err != nil {
		return Datagram{}, err
	}
	port, err := strconv.ParseUint(fields[4], 10, 16)
	if err != nil {
		return Datagram{}, fmt.Errorf("port %q: %w", fields[4], err)
	}
	payload, err := hex.DecodeString(fields[5])
	if err != nil {
		return Datagram{}, fmt.Errorf("payload: %w", err)
	}
	return Datagram{
		At: time.Unix(s, ns), HardwareSrc: fields[1], Source: source, Destination: destination,
		Port: uint16(port), Payload: payload,
	}, nil
}

// Split undoes what a TUN's capture shows of datagrams that were handed over in one
// batch (UDP segmentation): one datagram of several segments, each size bytes long
// but the last. The kernel splits it before any program sees it.
func Split(datagrams []Datagram, size int) []Datagram {
	split := make([]Datagram, 0, len(datagrams))
	for _, datagram := range datagrams {
		for rest := datagram.Payload; ; {
			segment := datagram
			segment.Payload = rest[:min(size, len(rest))]
			split = append(split, segment)
			if rest = rest[len(segment.Payload):]; len(rest) == 0 {
				break
			}
		}
	}
	return split
}
