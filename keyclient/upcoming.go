package keyclient

import (
	"time"

	"usher/keyclient/schedule"
)

// upcoming is what an entry's time expression came to. Working a rule out costs
// far more than all else that a look at the events does, and the agent looks
// whenever anything changes, so the answer is kept for as long as it is true.
type upcoming struct {
	known bool
	from  time.Time // when it was worked out
	ends  time.Time // of the first listed occurrence that ends; zero: none does
	list  []schedule.Occurrence
	err   error
}

// occurrences are the running occurrence or the next ones, at most
// shownOccurrences. The caller changes nothing of them. Client.mu is held.
func (h *heldEntry) occurrences(now time.Time) ([]schedule.Occurrence, error) {
	u := &h.upcoming
	over := !u.ends.IsZero() && !now.Before(u.ends)
	if u.known && !over && !now.Before(u.from) {
		return u.list, u.err
	}
	*u = upcoming{known: true, from: now}
	u.list, u.err = timeExpression(h.entry).Next(now, shownOccurrences)
	for _, o := range u.list {
		if !o.End.IsZero() && (u.ends.IsZero() || o.End.Before(u.ends)) {
			u.ends = o.End
		}
	}
	return u.list, u.err
}
