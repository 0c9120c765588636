package reserve

import "usher/sa"

// Break makes every later write of r's file fail.
func Break(r sa.Reservation) { r.(*run).file.close() }

// SetLimit acts as if n packets had been reserved before r's next block.
func SetLimit(r sa.Reservation, n uint64) { r.(*run).file.limit = n }
