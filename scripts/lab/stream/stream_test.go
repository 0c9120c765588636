package stream_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	"usher/scripts/lab/stream"
)

func readFrames(t *testing.T, file string) []int64 {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	frames, err := stream.ReadFrames(in)
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

// The testdata are two seconds of a stream at 25 frames a second with a key frame
// each second, over loopback: what the sender and the player wrote, and a capture.
const frames, perSecond = 50, 25

func readStream(t *testing.T) []stream.Datagram {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("lacks tshark (Debian's package tshark)")
		}
		t.Skip("lacks tshark (Debian's package tshark)")
	}
	datagrams, err := stream.ReadCapture(t.Context(), "testdata/stream.pcap", "udp.dstport==5004")
	if err != nil {
		t.Fatal(err)
	}
	return datagrams
}

func TestEveryFrameIsFoundInTheCapture(t *testing.T) {
	sent := readFrames(t, "testdata/sent.framecrc")
	if len(sent) != frames {
		t.Fatalf("sender wrote %d frames, want %d", len(sent), frames)
	}
	found := stream.Frames(readStream(t))
	if len(found) != frames {
		t.Fatalf("found %d frames in the capture, want %d", len(found), frames)
	}
	for i, frame := range found {
		if frame.PTS != sent[i] {
			t.Errorf("frame %d: PTS %d, want %d", i, frame.PTS, sent[i])
		}
		if frame.Key != (i%perSecond == 0) {
			t.Errorf("frame %d: key %v", i, frame.Key)
		}
		if frame.Last < frame.First || i > 0 && frame.First < found[i-1].Last {
			t.Errorf("frame %d lies in datagrams %d to %d, the one before it ended at %d", i, frame.First, frame.Last, found[i-1].Last)
		}
	}
}

func TestLateJoinCountsFromItsFirstKeyFrame(t *testing.T) {
	sent := readFrames(t, "testdata/sent.framecrc")
	decoded := readFrames(t, "testdata/decoded.framecrc")
	datagrams := readStream(t)
	all := stream.Frames(datagrams)
	late := datagrams[all[3].First:] // joined in the middle of the first second
	due := stream.FromFirstKeyFrame(sent, stream.Frames(late))
	if len(due) != frames-perSecond {
		t.Errorf("%d frames are due, want %d", len(due), frames-perSecond)
	}
	if both := stream.Both(due, decoded); len(both) != len(due) {
		t.Errorf("%d of %d were decoded", len(both), len(due))
	}
	if both := stream.Both(due, slices.Delete(slices.Clone(decoded), 30, 32)); len(both) != len(due)-2 {
		t.Errorf("two frames fewer decoded: counted %d of %d", len(both), len(due))
	}
}

func TestLostAndForeign(t *testing.T) {
	sent := readStream(t)
	got := slices.Delete(slices.Clone(sent[5:40]), 10, 13)
	indexes, err := stream.Match(sent, got)
	if err != nil {
		t.Fatal(err)
	}
	if lost := stream.Lost(indexes); lost != 3 {
		t.Errorf("lost %d, want 3", lost)
	}
	forged := slices.Clone(got)
	forged[7].Payload = []byte("forged")
	if _, err := stream.Match(sent, forged); !errors.Is(err, stream.ErrForeign) {
		t.Errorf("a forged datagram: %v", err)
	}
	swapped := slices.Clone(got)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	if _, err := stream.Match(sent, swapped); !errors.Is(err, stream.ErrForeign) {
		t.Errorf("two datagrams swapped: %v", err)
	}
}

func TestSplitRestoresDatagrams(t *testing.T) {
	payload := make([]byte, 2*1316+188)
	for i := range payload {
		payload[i] = byte(i / 188)
	}
	got := stream.Split([]stream.Datagram{{Payload: payload}, {Payload: payload[:188]}, {}}, 1316)
	var lengths []int
	for _, datagram := range got {
		lengths = append(lengths, len(datagram.Payload))
	}
	if want := []int{1316, 1316, 188, 188, 0}; !slices.Equal(lengths, want) {
		t.Fatalf("lengths %v, want %v", lengths, want)
	}
	if got[1].Payload[0] != payload[1316] {
		t.Error("the second segment does not begin where the first ended")
	}
}
