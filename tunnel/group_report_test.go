package tunnel_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"

	"usher/tunnel"
	"usher/tunnel/underlay/underlaytest"
)

// TestGroupReport: what the kernel reports of groups is told, without its IP
// header, and goes nowhere else; a fragment of such is not told.
func TestGroupReport(t *testing.T) {
	message := []byte{0x22, 0, 0x2c, 0xf1, 0, 0, 0, 1, 5, 0, 0, 1, 232, 1, 2, 3, 192, 0, 2, 7}
	packet := append([]byte{0x46, 0xc0, 0, 0, 0, 0, 0x40, 0, 1, 2, 0, 0, 169, 254, 77, 1, 224, 0, 0, 22, 0x94, 4, 0, 0}, message...)
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	binary.BigEndian.PutUint16(packet[10:], ^words(packet[:24], 0))
	fragment := bytes.Clone(packet)
	fragment[6] = 0x20
	synctest.Test(t, func(t *testing.T) {
		var told [][]byte
		s := start(t, underlaytest.NewNetwork(), senderAddr, tunnel.Hooks{GroupReport: func(m []byte) { told = append(told, bytes.Clone(m)) }})
		defer s.stop()
		s.device.Send(slices.Concat(packet, make([]byte, 3)))
		s.device.Send(fragment)
		synctest.Wait()
		if len(told) != 1 || !bytes.Equal(told[0], message) {
			t.Errorf("told %x", told)
		}
		expectDrops(t, s.dropsOut(), map[tunnel.Reason]uint64{tunnel.IGMP: 2})
	})
}
