package wishes

import "sync"

// What an inbox holds: reports of a few hundred groups.
const (
	inboxBytes    = 16 << 10
	inboxMessages = 64
)

// Inbox takes reports from the packet path, which must not wait. It is made by
// [NewInbox]; Put and Take may be called by different goroutines.
type Inbox struct {
	wake chan struct{}

	mu    sync.Mutex // held for a copy or a swap, never longer
	full  mail       // guarded by mu; what came
	empty mail       // guarded by mu; room for what comes while the other is read
}

// mail is messages one behind the other.
type mail struct {
	bytes []byte
	ends  []int
	lost  bool
}

func newMail() mail {
	return mail{bytes: make([]byte, 0, inboxBytes), ends: make([]int, 0, inboxMessages)}
}

// NewInbox makes an empty one. wake gets a value when something came, unless it
// holds one; it needs room for one.
func NewInbox(wake chan struct{}) *Inbox {
	return &Inbox{wake: wake, full: newMail(), empty: newMail()}
}

// Put copies a message. It allocates nothing; what finds no room is lost, and
// Take tells of it.
func (i *Inbox) Put(message []byte) {
	i.mu.Lock()
	m := &i.full
	if len(m.ends) == cap(m.ends) || len(m.bytes)+len(message) > cap(m.bytes) {
		m.lost = true
	} else {
		m.bytes = append(m.bytes, message...)
		m.ends = append(m.ends, len(m.bytes))
	}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// Take gives what came to f, one message after the other, and tells whether some
// were lost. f may keep nothing of them. One goroutine calls it.
func (i *Inbox) Take(f func(message []byte)) (lost bool) {
	i.mu.Lock()
	m := i.full
	i.full, i.empty = i.empty, mail{}
	i.mu.Unlock()
	start := 0
	for _, end := range m.ends {
		f(m.bytes[start:end])
		start = end
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.empty = mail{bytes: m.bytes[:0], ends: m.ends[:0]}
	return m.lost
}
