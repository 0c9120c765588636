package live

import (
	"testing"
	"time"
)

// TestTransforms: an event under ChaCha20-Poly1305 beside one under AES-256-GCM,
// 2,000 datagrams a second each way of the word, through six changes of keys at the
// shortest interval: nothing is lost, and the wire shows ciphertext alone.
func TestTransforms(t *testing.T) {
	w := newWorld(t)
	studio, viewer := w.station("studio", "10.77.0.2"), w.station("viewer", "10.77.0.11")
	const perSecond, least = 2000, 6
	for _, c := range []struct{ transform, title, group string }{
		{"chacha20-poly1305", "Poly", "232.1.2.3"},
		{"aes-256-gcm", "Galois", "232.1.2.4"},
	} {
		t.Run(c.transform, func(t *testing.T) {
			studio, viewer := studio.on(t), viewer.on(t)
			w.add(event{title: c.title, sender: studio, flows: []string{"udp/" + c.group + "/5004"}, interval: time.Second, transform: c.transform})
			studio.join(c.title)
			viewer.join(c.title)
			player := viewer.plays(studio, c.group+":5004")
			wire := w.sniffBridge()
			sends := studio.sends('x', perSecond, c.group+":5004")
			player.awaits(t, 'x', 0)
			player.awaitsMore(t, sends, (least+1)*perSecond)
			last := sends.halt(t) - 1
			player.awaits(t, 'x', last)
			packets := toGroup(stopped(t, wire, ""), c.group)

			first, end := player.unbroken(t, 'x')
			if end != last {
				t.Errorf("the last of %d datagrams did not come: %d", last, end)
			}
			if n := int(last - first + 1); len(packets) != n {
				t.Errorf("%d datagrams made %d packets", n, len(packets))
			}
			// Each change is one to a key that was never used before.
			if n, keys := changes(packets), len(spisOf(packets)); n < least || n != keys-1 {
				t.Errorf("%d keys, %d changes, want %d or more and no way back", keys, n, least)
			}
			if t.Failed() {
				t.Logf("studio: %+v, viewer: %+v", studio.status().Drops, viewer.status().Drops)
			}
			for _, sa := range viewer.sas().SAs {
				if sa.Title == c.title && sa.Transform != c.transform {
					t.Errorf("association %s is %s", sa.SPI, sa.Transform)
				}
			}
			studio.must("leave", c.title)
			viewer.must("leave", c.title)
		})
	}
}
