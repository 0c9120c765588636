package sa

// SetFailedLimit lowers the number of failed integrity checks after which s is dropped: 2³⁶ is out of
// a test's reach.
func SetFailedLimit(s *SA, n uint64) { s.receive.failedLimit = n }

// SetNumbered acts as if s had numbered n packets.
func SetNumbered(s *SA, n uint64) { s.send.numbered.Store(n) }
