package live

import "time"

// What the commands print with --json, as far as the tests read it.

type statusAnswer struct {
	PID      int            `json:"pid"`
	State    string         `json:"state"`
	Problems []problem      `json:"problems"`
	Server   serverAnswer   `json:"server"`
	Cert     certAnswer     `json:"certificate"`
	Events   []eventAnswer  `json:"events"`
	Traffic  trafficAnswer  `json:"traffic"`
	Drops    []dropAnswer   `json:"drops"`
	Guard    guardAnswer    `json:"guard"`
	Iface    interfaceState `json:"interface"`
}

type problem struct {
	Code string `json:"code"`
	Text string `json:"text"`
	Todo string `json:"todo"`
}

type serverAnswer struct {
	URL      string `json:"url"`
	LoggedIn bool   `json:"logged_in"`
	Error    string `json:"error"`
}

type certAnswer struct {
	Subject  string    `json:"subject"`
	NotAfter time.Time `json:"not_after"`
}

type trafficAnswer struct {
	OutPackets uint64 `json:"out_packets"`
	InPackets  uint64 `json:"in_packets"`
}

type dropAnswer struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Todo    string `json:"todo"`
}

type guardAnswer struct {
	Active     bool   `json:"active"`
	RefusedOut uint64 `json:"refused_out"`
	RefusedIn  uint64 `json:"refused_in"`
	Restored   uint64 `json:"restored"`
	Todo       string `json:"todo"`
}

type interfaceState struct {
	TUN       string   `json:"tun"`
	Real      string   `json:"real"`
	Addresses []string `json:"addresses"`
}

type eventsAnswer struct {
	Events []eventAnswer `json:"events"`
}

type eventAnswer struct {
	ID     string     `json:"id"`
	Title  string     `json:"title"`
	Role   string     `json:"role"`
	Joined bool       `json:"joined"`
	State  string     `json:"state"`
	Detail string     `json:"detail"`
	Start  *time.Time `json:"start"`
	Until  *time.Time `json:"until"`
	Keys   int        `json:"keys"`

	Senders    []string `json:"senders"`
	KeyServers []string `json:"key_servers"`
	Flows      []struct {
		Destination string `json:"destination"`
		Ports       string `json:"ports"`
	} `json:"flows"`
}

type sasAnswer struct {
	SAs []saAnswer `json:"sas"`
}

type saAnswer struct {
	Association  string   `json:"association"`
	Title        string   `json:"title"`
	SPI          string   `json:"spi"`
	Source       string   `json:"source"`
	Destinations []string `json:"destinations"`
	Direction    string   `json:"direction"`
	Transform    string   `json:"transform"`
	SenderID     uint16   `json:"sender_id"`
	Interval     uint32   `json:"interval"`
	OutPackets   uint64   `json:"out_packets"`
	InPackets    uint64   `json:"in_packets"`
}

// failure is what a command prints with --json when it fails.
type failure struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Hint    string `json:"hint"`
	} `json:"error"`
}

// dropped is how many packets a status counts under a reason.
func (s *statusAnswer) dropped(reason string) uint64 {
	for _, d := range s.Drops {
		if d.Reason == reason {
			return d.Packets
		}
	}
	return 0
}

// event finds an event by its title.
func (e *eventsAnswer) event(title string) *eventAnswer {
	for i := range e.Events {
		if e.Events[i].Title == title {
			return &e.Events[i]
		}
	}
	return nil
}

// spis are the SPIs of one event's associations, of all if title is "".
func (s *sasAnswer) spis(title string) map[string]bool {
	out := map[string]bool{}
	for _, one := range s.SAs {
		if title == "" || one.Title == title {
			out[one.SPI] = true
		}
	}
	return out
}
