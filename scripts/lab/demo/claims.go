package main

import (
	"fmt"
	"strings"
)

// How far from the exact instant bob's last frame may be: a frame lasts 0.04 s, is
// cut by the key's end, and the sender may switch up to its tolerance early.
const darkSlackS = 0.25

// claims states what the demo shows, with the figures that show it.
func claims(w *wire, f *Figures) []Claim {
	alice, bob, carol := f.Receivers["alice"], f.Receivers["bob"], f.Receivers["carol"]
	var list []Claim
	claim := func(name string, held bool, text, seen string, args ...any) {
		list = append(list, Claim{Name: name, Text: text, Seen: fmt.Sprintf(seen, args...), Held: held})
	}
	firstKeyS := 0.0
	if len(f.Intervals) > 0 {
		firstKeyS = f.Intervals[0].FromS
	}
	claim("sender_waits_for_a_key",
		f.Sender.RanBeforeKey && f.Sender.BeforeFirstKey > 0 && firstKeyS >= 0 && f.Sender.ExitStatus == 0,
		"before the first key nothing leaves the sender, and ffmpeg runs on",
		"%d datagrams kept in, the first left %.2f s after the start, ffmpeg ended with %d", f.Sender.BeforeFirstKey, firstKeyS, f.Sender.ExitStatus)
	claim("alice_decodes_every_frame",
		alice.FramesSent > 0 && alice.FramesDecoded == alice.FramesSent && alice.PacketsLost == 0 && alice.KeyChanges >= 6,
		"alice decodes every frame over at least six key changes",
		"%d of %d frames, %d lost packets, %d changes", alice.FramesDecoded, alice.FramesSent, alice.PacketsLost, alice.KeyChanges)
	claim("carol_joins_late",
		carol.FramesSent > 0 && carol.FramesDecoded == carol.FramesSent && carol.PacketsLost == 0 && carol.FirstPacketS >= *carol.JoinedAtS && *carol.JoinedAtS > 0,
		"carol joins late, reads from then on, and nothing of before",
		"joined at %.2f s, first packet at %.2f s; %d of %d frames, %d lost packets", *carol.JoinedAtS, carol.FirstPacketS, carol.FramesDecoded, carol.FramesSent, carol.PacketsLost)
	dark := bob.DarkAfterS
	claim("bob_goes_dark",
		dark != nil && *dark >= -darkSlackS && *dark <= darkSlackS && bob.LastPacketS < f.Intervals[len(f.Intervals)-1].FromS,
		"bob, suspended, is dark at the end of the last interval whose key he holds",
		"held %s; last frame %s s after that end, last packet at %.2f s", strings.Join(bob.KeysHeld, " "), optional(dark), bob.LastPacketS)
	claim("agent_killed",
		bob.AgentKilledAt != nil && bob.LastPacketS > *bob.AgentKilledAt+2 && alice.PacketsLost == 0,
		"bob's agent is killed and started again: he reads on with nobody's help, the others lose nothing",
		"killed at %.2f s, %d packets missing for bob, %d for alice", *bob.AgentKilledAt, bob.PacketsLost, alice.PacketsLost)
	claim("servers_stopped",
		f.ServersDownS >= 1.5 && alice.PacketsLost == 0 && alice.FramesDecoded == alice.FramesSent,
		"both server roles are away in the middle of an interval, and nobody notices",
		"%.2f s away, %d packets lost", f.ServersDownS, alice.PacketsLost)
	claim("mallory_reads_nothing",
		f.Mallory.CiphertextReceived > 0 && f.Mallory.CleartextReceived == 0 && f.Mallory.ReadableReceived == 0 && w.record.refused,
		"mallory, with no ticket, is refused, and gets only ciphertext from the wire",
		"%d datagrams, %d of them readable; usher join: %s", f.Mallory.CiphertextReceived, f.Mallory.ReadableReceived, w.record.refusal)
	ears := alice.EarGenuine > 0 && bob.EarGenuine > 0 && carol.EarGenuine > 0
	claim("forged_cleartext_reaches_nobody",
		f.ForgedCleartextSent > 0 && f.ForgedCleartextDelivered == 0 && ears,
		"what mallory injects in the clear under the sender's address reaches no program",
		"%d sent, %d delivered; the same sockets got %d datagrams of the stream", f.ForgedCleartextSent, f.ForgedCleartextDelivered, alice.EarGenuine+bob.EarGenuine+carol.EarGenuine)
	claim("no_cleartext_on_the_bridge",
		f.CiphertextPackets > 0 && f.CleartextPackets == 0,
		"the bridge sees not one cleartext packet of the stream",
		"%d ciphertext, %d cleartext", f.CiphertextPackets, f.CleartextPackets)
	claim("tshark_reads_the_capture",
		f.Tshark.Packets == f.CiphertextPackets && f.Tshark.ICVGood == f.Tshark.Packets && f.Tshark.InnerSame == f.Tshark.Packets,
		"tshark, shown the keys, decrypts the whole capture",
		"%d packets, %d with a good ICV, %d the same as sent", f.Tshark.Packets, f.Tshark.ICVGood, f.Tshark.InnerSame)
	return list
}

func optional(value *float64) string {
	if value == nil {
		return "?"
	}
	return fmt.Sprintf("%+.3f", *value)
}
