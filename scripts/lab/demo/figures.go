package main

// Figures is what the demo counted, for programs (--json) and for the table.
type Figures struct {
	Receivers map[string]*Receiver `json:"receivers"`

	// On the bridge, from any host but mallory.
	CiphertextPackets int `json:"ciphertext_packets"`
	CleartextPackets  int `json:"cleartext_packets"`

	// What mallory sent in the clear under the sender's address, as the bridge saw
	// it, and how much of it reached a program on a receiver.
	ForgedCleartextSent      int `json:"forged_cleartext_sent"`
	ForgedCleartextDelivered int `json:"forged_cleartext_delivered"`

	ServersDownS float64 `json:"servers_down_s"`

	Sender  SenderFigures  `json:"sender"`
	Mallory MalloryFigures `json:"mallory"`
	Tshark  TsharkFigures  `json:"tshark"`

	Intervals []IntervalFigures `json:"intervals"`
	Claims    []Claim           `json:"claims"`
}

// Receiver is what one player saw.
type Receiver struct {
	FramesSent    int `json:"frames_sent"` // from the first key frame that begins after the host's first packet
	FramesDecoded int `json:"frames_decoded"`
	// Datagrams missing between the first and the last that came out of usher0.
	PacketsReceived int `json:"packets_received"`
	PacketsLost     int `json:"packets_lost"`
	KeyChanges      int `json:"key_changes"`
	// Seconds after the event's start.
	JoinedAtS     *float64 `json:"joined_at_s,omitempty"`
	FirstPacketS  float64  `json:"first_packet_s"`
	LastPacketS   float64  `json:"last_packet_s"`
	EarGenuine    int      `json:"ear_genuine"` // datagrams of the stream that the plain sockets beside the player got
	KeysHeld      []string `json:"keys_held,omitempty"`
	DarkAfterS    *float64 `json:"dark_after_s,omitempty"`
	AgentKilledAt *float64 `json:"agent_killed_at_s,omitempty"`
}

// SenderFigures tell of the sending host.
type SenderFigures struct {
	DatagramsByApplication int  `json:"datagrams_by_application"`
	BeforeFirstKey         int  `json:"before_first_key"` // of these, before the first one left
	ExitStatus             int  `json:"exit_status"`      // of ffmpeg
	FramesEncoded          int  `json:"frames_encoded"`
	RanBeforeKey           bool `json:"ran_before_key"` // ffmpeg was started before the join
}

// MalloryFigures tell of the outsider.
type MalloryFigures struct {
	CiphertextReceived int `json:"ciphertext_received"`
	CleartextReceived  int `json:"cleartext_received"` // at the stream's port, but her own
	ReadableReceived   int `json:"readable_received"`  // ciphertext datagrams that hold a piece of the stream all the same
}

// TsharkFigures tell what tshark made of the capture with the exported keys.
type TsharkFigures struct {
	Packets   int `json:"packets"`
	ICVGood   int `json:"icv_good"`
	ICVBad    int `json:"icv_bad"`
	InnerSame int `json:"inner_same"` // decrypted payloads that equal what the application sent
}

// IntervalFigures is one key's time on the wire.
type IntervalFigures struct {
	SPI     string  `json:"spi"`
	FromS   float64 `json:"from_s"` // first packet under it, after the event's start
	Packets int     `json:"packets"`
}

// Claim is one thing that the demo says holds.
type Claim struct {
	Name string `json:"name"`
	Text string `json:"text"`
	Seen string `json:"seen"`
	Held bool   `json:"held"`
}

// held says whether all claims do.
func (f *Figures) held() bool {
	for _, claim := range f.Claims {
		if !claim.Held {
			return false
		}
	}
	return len(f.Claims) > 0
}
