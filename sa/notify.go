package sa

import (
	"slices"
	"sync"
	"sync/atomic"
)

// notifier tells subscribers that something changed. Telling neither blocks nor locks: the packet path
// does it when an association nears its limits.
type notifier struct {
	channels atomic.Pointer[[]chan struct{}]
	mu       sync.Mutex // held by those who change channels
}

func (n *notifier) notify() {
	channels := n.channels.Load()
	if channels == nil {
		return
	}
	for _, c := range *channels {
		select {
		case c <- struct{}{}:
		default: // it has not taken the last one yet
		}
	}
}

func (n *notifier) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	n.update(func(all []chan struct{}) []chan struct{} { return append(all, c) })
	return c, func() {
		n.update(func(all []chan struct{}) []chan struct{} {
			return slices.DeleteFunc(all, func(other chan struct{}) bool { return other == c })
		})
	}
}

// update replaces the list by a changed copy, since notify may be reading it.
func (n *notifier) update(f func([]chan struct{}) []chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []chan struct{}
	if old := n.channels.Load(); old != nil {
		all = slices.Clone(*old)
	}
	all = f(all)
	n.channels.Store(&all)
}
