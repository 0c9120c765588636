package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tsharkTransforms are Debian's tshark 4.0's names of what it can decrypt.
var tsharkTransforms = map[string]string{
	"aes-256-gcm": "AES-GCM with 16 octet ICV [RFC4106]",
}

// decrypt shows tshark the exported keys and lets it read the bridge's capture.
func (w *wire) decrypt(ctx context.Context, dir string) (TsharkFigures, error) {
	var f TsharkFigures
	args := []string{"-r", w.record.captures["bridge"], "-Y", "esp", "-T", "fields", "-E", "separator=;", "-E", "aggregator=,",
		"-e", "esp.icv_good", "-e", "udp.payload",
		"-d", fmt.Sprintf("udp.port==%d,udpencap", espPort),
		// The stream is data: a dissector that guesses at it gives up now and then,
		// and tshark then drops its word on the ICV as well.
		"-d", fmt.Sprintf("udp.port==%d,data", port),
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"}
	// tshark reads its table of keys from a folder: keys never stand in arguments.
	config, err := os.MkdirTemp("", "usher-demo-tshark-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(config)
	var table strings.Builder
	for spi, key := range w.record.keys {
		name, known := tsharkTransforms[key.Transform]
		if !known {
			return f, fmt.Errorf("tshark does not know the transform %q", key.Transform)
		}
		fmt.Fprintf(&table, "\"IPv4\",\"*\",\"*\",\"%s\",\"%s\",\"0x%s\",\"NULL\",\"\"\n", spi, name, key.Key)
	}
	if err := os.WriteFile(filepath.Join(config, "esp_sa"), []byte(table.String()), 0o600); err != nil {
		return f, err
	}
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, "tshark", args...)
	command.Stderr = &stderr
	command.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+config)
	out, err := command.Output()
	if err != nil {
		return f, fmt.Errorf("tshark: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := os.WriteFile(filepath.Join(dir, "tshark.txt"), out, 0o644); err != nil {
		return f, err
	}
	sent := map[[sha256.Size]byte]bool{}
	for _, datagram := range w.sent {
		sent[sha256.Sum256(datagram.Payload)] = true
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f.Packets++
		good, payloads, _ := strings.Cut(lines.Text(), ";")
		if good == "1" || good == "True" {
			f.ICVGood++
		} else {
			f.ICVBad++
		}
		// The outer datagram's payload is first, the inner one's last.
		inner, err := hex.DecodeString(payloads[strings.LastIndex(payloads, ",")+1:])
		if err == nil && sent[sha256.Sum256(inner)] {
			f.InnerSame++
		}
	}
	return f, lines.Err()
}
