package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"usher/cmd/usher/control"
	"usher/scripts/lab"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// station is a host of a lab with an agent.
type station struct {
	*lab.Host
	t   *testing.T
	bin string // usher
	cmd *exec.Cmd
	log bytes.Buffer
}

// binary puts this test binary, which is usher under that name, where hosts and
// other users find it.
func binary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "usher-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	name := filepath.Join(dir, "usher")
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close(), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return name
}

// newStation makes a host with a configuration.
func newStation(t *testing.T, l *lab.Lab, bin, name, cidr, config string) *station {
	t.Helper()
	s := &station{Host: l.TestHost(t, name, cidr), t: t, bin: bin}
	s.write("usher.toml", config)
	return s
}

// write writes a file to the host's /etc/usher.
func (s *station) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.Path("/etc/usher"), name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// start starts the agent and waits until it answers.
func (s *station) start() {
	s.t.Helper()
	s.cmd = s.Command(s.t.Context(), s.bin, "agent", "--debug")
	s.cmd.Stderr = &s.log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd := s.cmd
	s.t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // killed
		if s.t.Failed() && cmd == s.cmd {
			s.t.Logf("agent of %s:\n%s", s.Name(), s.log.String())
		}
	})
	s.eventually("the agent of "+s.Name(), func() error {
		_, err := s.usher("status", "--json")
		return err
	})
}

// kill ends the agent by SIGKILL.
func (s *station) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Wait() //nolint:errcheck // killed
}

func (s *station) eventually(what string, look func() error) {
	s.t.Helper()
	if err := lab.Within(patience, what, look); err != nil {
		s.t.Fatal(err)
	}
}

// usher runs a command on the host.
func (s *station) usher(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Run(ctx, s.bin, args...)
}

// must runs a command that has to succeed.
func (s *station) must(args ...string) string {
	s.t.Helper()
	out, err := s.usher(args...)
	if err != nil {
		s.t.Fatalf("%s: usher %s: %v", s.Name(), strings.Join(args, " "), err)
	}
	return out
}

// read runs a command with --json and decodes its answer.
func read[T any](s *station, args ...string) *T {
	s.t.Helper()
	v := new(T)
	if err := json.Unmarshal([]byte(s.must(append(args, "--json")...)), v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// player is a program that joined a group, as players do: with no interface.
type player struct{ conn *net.UDPConn }

// play starts a player of (source, group).
func (s *station) play(group netip.AddrPort, source netip.Addr) *player {
	s.t.Helper()
	var p player
	if err := s.Do(func() error {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(group))
		if err != nil {
			return err
		}
		p.conn = c
		return ipv4.NewPacketConn(c).JoinSourceSpecificGroup(nil,
			&net.UDPAddr{IP: group.Addr().AsSlice()}, &net.UDPAddr{IP: source.AsSlice()})
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.conn.Close() }) //nolint:errcheck // the test is over
	return &p
}

// next is the next datagram, or an error when none comes for a while.
func (p *player) next(patience time.Duration) ([]byte, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	buf := make([]byte, 65536)
	n, err := p.conn.Read(buf)
	return buf[:n], err
}

// program is a program that sends, as encoders do: neither bound nor connected.
func (s *station) program() *net.UDPConn {
	s.t.Helper()
	var c *net.UDPConn
	if err := s.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", nil)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() }) //nolint:errcheck // the test is over
	return c
}

const key1 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
const key2 = "aabbccddeeff00112233445566778899aabbccddeeff001122334455667788990a0b0c0d"

// manualTOML has two policies: left sends to 232.1.2.3 under AES-256-GCM, right
// to 232.1.2.4 under ChaCha20-Poly1305.
func manualTOML(left, right string) string {
	return fmt.Sprintf(`show_keys = true
[[policy]]
name = "left"
source = "10.77.0.2"
destination = "232.1.2.3"
ports = "5004"
[[policy]]
name = "right"
source = "10.77.0.3"
destination = "232.1.2.4"
ports = "5000-5010"
[[sa]]
policy = "left"
spi = 0x1001
direction = %q
%s
key_file = "/etc/usher/left.key"
[[sa]]
policy = "right"
spi = 0x1002
direction = %q
%s
transform = "chacha20-poly1305"
key_file = "/etc/usher/right.key"
`, left, senderID(left), right, senderID(right))
}

func senderID(direction string) string {
	if direction == "send" {
		return "sender_id = 1"
	}
	return ""
}

// TestManualKeys: two agents with manual keys and no server. Datagrams arrive as
// they were sent, both ways at once, and only ciphertext is on the wire; tshark
// decrypts it. The guard, the agent's death and its end do what they promise.
func TestManualKeys(t *testing.T) {
	l, bin := lab.ForTest(t), binary(t)
	left := newStation(t, l, bin, "left", "10.77.0.2/24", manualTOML("send", "receive"))
	right := newStation(t, l, bin, "right", "10.77.0.3/24", manualTOML("receive", "send"))
	for _, s := range []*station{left, right} {
		s.write("left.key", key1+"\n")
		s.write("right.key", key2+"\n")
		s.start()
		if st := read[control.Status](s, "status"); st.State != control.StateRunning || !st.Guard.Active || st.Interface.Real != "eth0" || len(st.Problems) > 0 {
			t.Fatalf("%s: %+v", s.Name(), st)
		}
	}
	file := filepath.Join(t.TempDir(), "bridge.pcap")
	capture, err := l.Capture(t.Context(), l.Switch(), lab.DefaultBridge, file, "udp")
	if err != nil {
		t.Fatal(err)
	}

	a, b := netip.MustParseAddrPort("232.1.2.3:5004"), netip.MustParseAddrPort("232.1.2.4:5007")
	atRight, atLeft := right.play(a, left.Addr()), left.play(b, right.Addr())
	fromLeft, fromRight := left.program(), right.program()
	flood(t, fromLeft, a, atRight)
	flood(t, fromRight, b, atLeft)

	if err := capture.Stop(); err != nil {
		t.Fatal(err)
	}
	checkWire(t, file, read[control.SAs](left, "sa", "--show-keys").SAs)
	for _, s := range []*station{left, right} {
		for _, i := range read[control.SAs](s, "sa").SAs {
			if i.Key != "" || i.OutPackets+i.InPackets < datagrams || i.BadICV != 0 {
				t.Errorf("%s: %+v", s.Name(), i)
			}
		}
	}

	// A program that chooses the real interface by connect() gets an error, and
	// status says what to do.
	var refused error
	if err := left.Do(func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: left.Addr().AsSlice()}, net.UDPAddrFromAddrPort(a))
		if err != nil {
			return err
		}
		defer c.Close()
		_, refused = c.Write([]byte("in the clear"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(refused, syscall.EPERM) {
		t.Errorf("cleartext by the real interface: %v, want EPERM", refused)
	}
	if g := read[control.Status](left, "status").Guard; g.RefusedOut == 0 || g.Todo == "" {
		t.Errorf("guard: %+v", g)
	}

	// Killed: programs lose packets and get no error, nothing leaves, and the
	// next agent goes on by itself.
	left.kill()
	for i := range 20 {
		if _, err := fromLeft.WriteToUDPAddrPort([]byte{byte(i)}, a); err != nil {
			t.Fatalf("with the agent dead: %v", err)
		}
	}
	if got, err := atRight.next(300 * time.Millisecond); err == nil {
		t.Errorf("with the agent dead %d bytes arrived", len(got))
	}
	left.start()
	flood(t, fromLeft, a, atRight)

	// Two agents on one host.
	if _, err := left.usher("agent"); err == nil || !strings.Contains(err.Error(), "already running (pid ") {
		t.Errorf("a second agent: %v", err)
	}
	if _, err := left.usher("agent", "--socket", "/run/usher/other.sock"); err == nil || !strings.Contains(err.Error(), "already running (pid ") {
		t.Errorf("a second agent with another socket: %v", err)
	}

	// Down with the agent alive, and with it dead.
	left.must("down")
	if err := lab.Within(2*time.Second, "usher0 or the guard to come back", func() error {
		if _, err := left.Run(t.Context(), "ip", "link", "show", "usher0"); err == nil {
			return nil
		}
		if out, err := left.Run(t.Context(), "nft", "list", "tables"); err != nil || strings.Contains(out, "usher") {
			return nil
		}
		return errors.New("they are gone")
	}); !errors.Is(err, lab.ErrTimeout) {
		t.Error("after usher down usher0 or the guard is there")
	}
	left.must("up")
	flood(t, fromLeft, a, atRight)
	right.kill()
	if out := right.must("down"); !strings.Contains(out, "no agent is running") {
		t.Errorf("down with the agent dead: %s", out)
	}
	if out, err := right.Run(t.Context(), "ip", "link", "show", "usher0"); err == nil {
		t.Errorf("usher0 is there after usher down: %s", out)
	}
}

// datagrams is how many a flood sends.
const datagrams = 300

// flood sends datagrams of all sizes and checks that the player gets the same,
// in the same order.
func flood(t *testing.T, from *net.UDPConn, group netip.AddrPort, to *player) {
	t.Helper()
	// The first may be lost while the membership is new; they are marked.
	if err := lab.Within(patience, "the first datagram", func() error {
		if _, err := from.WriteToUDPAddrPort([]byte("hello"), group); err != nil {
			return err
		}
		_, err := to.next(100 * time.Millisecond)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	room := make(chan struct{}, 50) // what the player's socket buffer surely holds
	go func() {
		for i := range datagrams {
			select {
			case room <- struct{}{}:
			case <-t.Context().Done():
				return
			}
			if _, err := from.WriteToUDPAddrPort(payload(i), group); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := 0; i < datagrams; {
		got, err := to.next(patience)
		if err != nil {
			t.Fatalf("datagram %d of %d: %v", i, datagrams, err)
		}
		if string(got) == "hello" {
			continue
		}
		if !bytes.Equal(got, payload(i)) {
			t.Fatalf("datagram %d differs: %d bytes, want %d", i, len(got), len(payload(i)))
		}
		i++
		<-room
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// secret stands in every payload: no packet on the wire may show it.
const secret = "this must not be seen on the wire"

func payload(i int) []byte {
	return append(fmt.Appendf(nil, "%d %s ", i, secret), bytes.Repeat([]byte{byte(i)}, i*3)...)
}

// checkWire looks at what was captured: nothing in the clear, and tshark, given
// the keys, finds every packet authentic.
func checkWire(t *testing.T, file string, sas []control.SA) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(secret)) {
		t.Error("the capture holds cleartext")
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Log("tshark is missing: nobody else decrypted the packets")
		return
	}
	// Debian's tshark 4.0 knows AES-GCM and no ChaCha20-Poly1305 in ESP.
	dir := t.TempDir()
	var table strings.Builder
	gcm := ""
	for _, s := range sas {
		if s.Transform == "aes-256-gcm" {
			gcm = s.SPI
			fmt.Fprintf(&table, "\"IPv4\",\"*\",\"*\",\"%s\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x%s\",\"NULL\",\"\"\n", s.SPI, s.Key)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "esp_sa"), []byte(table.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", "-r", file, "-Y", "esp.spi == "+gcm, "-T", "fields",
		"-e", "esp.icv_good", "-e", "udp.dstport", "-d", "udp.port==4500,udpencap",
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE")
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < datagrams {
		t.Errorf("tshark saw %d packets, want %d or more", len(lines), datagrams)
	}
	for _, line := range lines {
		good, inner, _ := strings.Cut(line, "\t")
		if (good != "1" && good != "True") || !strings.HasSuffix(inner, ",5004") {
			t.Fatalf("tshark: icv_good %q, ports %q", good, inner)
		}
	}
}
