package stream

const (
	packetLen = 188 // of a transport stream packet (ISO/IEC 13818-1 §2.4.3.2)
	syncByte  = 0x47
	// videoStream is the lowest stream id of video in a PES header (§2.4.3.7).
	videoStream, videoStreams = 0xe0, 16
)

// Frame is where one picture of the video lies in a row of datagrams.
type Frame struct {
	PTS         int64 // presentation time, ticks of 90 kHz
	Key         bool  // decoding can begin here (random_access_indicator)
	First, Last int   // indexes of its first and last datagram
}

// Frames finds the video's frames in datagrams that hold a transport stream, as
// ffmpeg writes them: one frame a PES packet. A frame whose beginning is not there
// is left out; one that is cut off at the end ends at the last datagram.
func Frames(datagrams []Datagram) []Frame {
	var frames []Frame
	video := -1 // the video's PID, known from its first PES header
	for index, datagram := range datagrams {
		for rest := datagram.Payload; len(rest) >= packetLen && rest[0] == syncByte; rest = rest[packetLen:] {
			packet := rest[:packetLen]
			pid := int(packet[1]&0x1f)<<8 | int(packet[2])
			if frame, ok := frameStart(packet); ok {
				video = pid
				frame.First, frame.Last = index, index
				frames = append(frames, frame)
			} else if pid == video && len(frames) > 0 {
				frames[len(frames)-1].Last = index
			}
		}
	}
	return frames
}

// frameStart reads a packet that begins a video PES packet with a time.
func frameStart(packet []byte) (Frame, bool) {
	unitStart := packet[1]&0x40 != 0
	hasAdaptation, hasPayload := packet[3]&0x20 != 0, packet[3]&0x10 != 0
	if !unitStart || !hasPayload {
		return Frame{}, false
	}
	payload, key := packet[4:], false
	if hasAdaptation {
		length := int(payload[0])
		if 1+length > len(payload) {
			return Frame{}, false
		}
		key = length > 0 && payload[1]&0x40 != 0
		payload = payload[1+length:]
	}
	// PES header: 00 00 01, stream id, length 2, flags 2, header length, PTS 5.
	if len(payload) < 14 || payload[0] != 0 || payload[1] != 0 || payload[2] != 1 ||
		payload[3] < videoStream || payload[3] >= videoStream+videoStreams || payload[7]&0x80 == 0 {
		return Frame{}, false
	}
	p := payload[9:]
	pts := int64(p[0]&0x0e)<<29 | int64(p[1])<<22 | int64(p[2]&0xfe)<<14 | int64(p[3])<<7 | int64(p[4]>>1)
	return Frame{PTS: pts, Key: key}, true
}
