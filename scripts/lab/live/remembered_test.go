package live

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestJoinIsRemembered: what was joined once keys by itself, with nobody logged in:
// after the agent's restart, after the machine's, and at the next occurrence of an
// event that recurs. So is the certificate renewed.
func TestJoinIsRemembered(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	// One occurrence was yesterday; today's comes when the restarts are over.
	daily := time.Now().Add(-24*time.Hour + 14*time.Second).UTC()
	w.add(event{title: "Daily", sender: studio, flows: []string{"udp/232.1.2.4/5004"}, lasts: time.Minute,
		more: []string{"--start", daily.Format(time.RFC3339), "--rrule", "daily"}})
	w.add(event{title: "News", sender: studio, flows: []string{"udp/232.1.2.3/5004"}})
	studio.join("News")
	viewer.join("News")
	for _, s := range []*station{studio, viewer} {
		joined := read[eventsAnswer](s, "join", "--wait", "0s", "Daily").event("Daily")
		if joined == nil || joined.State != "waiting" || joined.Start == nil || !joined.Start.After(time.Now()) {
			t.Fatalf("%s: the daily event before its occurrence: %+v", s.Name(), joined)
		}
	}
	player, daylight := viewer.plays(studio, "232.1.2.3:5004"), viewer.plays(studio, "232.1.2.4:5004")
	sends, sendsDaily := studio.sends('n', 100, "232.1.2.3:5004"), studio.sends('d', 100, "232.1.2.4:5004")
	player.awaits(t, 'n', 0)

	t.Run("agent_restarted", func(t *testing.T) {
		s := viewer.on(t)
		s.stop()
		s.start()
		viewer.agent = s.agent
		player.awaitsMore(t, sends, 50)
	})
	t.Run("machine_rebooted", func(t *testing.T) {
		s := viewer.on(t)
		s.stop()
		// What a reboot takes with it: the interface with its routes, the guard,
		// and everything under /run.
		s.shell("ip", "link", "del", "usher0")
		s.shell("nft", "flush", "ruleset")
		for _, file := range glob(t, s.Path("/run/usher")+"/*") {
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
		}
		s.start()
		viewer.agent = s.agent
		if e := s.events().event("News"); e == nil || !e.Joined {
			t.Errorf("the join was forgotten: %+v", e)
		}
		// The player lost its membership with the interface; a real one would
		// have been started anew, too.
		again := s.plays(studio, "232.1.2.3:5004")
		again.awaitsMore(t, sends, 50)
		daylight = s.plays(studio, "232.1.2.4:5004")
	})
	t.Run("next_occurrence", func(t *testing.T) {
		daylight.awaits(t, 'd', 0)
		for _, s := range []*station{studio.on(t), viewer.on(t)} {
			if e := s.events().event("Daily"); e.State != "keyed" {
				t.Errorf("%s: %s is %s: %s", s.Name(), e.Title, e.State, e.Detail)
			}
		}
	})
	t.Run("certificate_renewed", func(t *testing.T) {
		s := viewer.on(t)
		s.stop()
		old := shortLived(t, w, s)
		s.start()
		viewer.agent = s.agent
		eventually(t, "another certificate", func() error {
			if cert := s.status().Cert; !cert.NotAfter.After(old.NotAfter.Add(time.Hour)) {
				return fmt.Errorf("it ends %s", cert.NotAfter)
			}
			return nil
		})
		if e := s.events().event("News"); e == nil || !e.Joined {
			t.Errorf("the join was forgotten: %+v", e)
		}
		last := s.plays(studio, "232.1.2.3:5004")
		last.awaitsMore(t, sends, 50)
	})
	sends.halt(t)
	sendsDaily.halt(t)
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// shortLived replaces a client's certificate by one that the server's CA signs for
// the same key, and that is in the last third of its life in a few seconds: no user
// waits for a day in a test.
func shortLived(t *testing.T, w *world, s *station) *x509.Certificate {
	t.Helper()
	file := filepath.Join(s.Path("/var/lib/usher"), "identity.pem")
	old := readCertificate(t, file)
	ca := readCertificate(t, filepath.Join(w.server.Path("/var/lib/usher-server"), "ca.pem"))
	text, err := os.ReadFile(filepath.Join(w.server.Path("/var/lib/usher-server"), "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	short := *old
	short.SerialNumber = big.NewInt(time.Now().UnixNano())
	short.NotBefore, short.NotAfter = time.Now().Add(-30*time.Second), time.Now().Add(25*time.Second)
	short.Extensions = nil
	der, err := x509.CreateCertificate(rand.Reader, &short, ca, old.PublicKey, key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil || !slices.Equal(cert.RawSubject, old.RawSubject) {
		t.Fatalf("another certificate: %v, %v", cert.Subject, err)
	}
	return cert
}

func readCertificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is no PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
