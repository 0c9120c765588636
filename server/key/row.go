package key

import (
	"encoding/binary"
	"fmt"

	"usher/keyclient/derive"
	"usher/keyclient/schedule"
	"usher/server/store"
)

// An interval secret in the store (docs/keying.md §3):
//
//	nonce 12 | sealed C 32 | tag 16, under E of epoch x,
//	associated data = tag 8 ‖ interval 4 ‖ x 8

// rowEpoch is x, the last epoch in which the secret of an interval that ends at
// endMS is needed.
func rowEpoch(endMS int64) uint64 {
	return uint64((endMS + schedule.LingerMS) / epochLength.Milliseconds())
}

func rowData(tag derive.Tag, interval uint32, epoch uint64) []byte {
	b := append(make([]byte, 0, 20), tag[:]...)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, interval), epoch)
}

// sealRow seals c under e, the seal key of epoch x. The nonce must be random.
func sealRow(e *derive.Secret, tag derive.Tag, interval uint32, x uint64, nonce [12]byte, c *derive.Secret) store.Row {
	row := store.Row{Tag: tag, Interval: interval, Epoch: x}
	copy(row.Sealed[:], nonce[:])
	derive.NewAEAD(e).Seal(row.Sealed[12:12], nonce[:], c.Bytes(), rowData(tag, interval, x))
	return row
}

// openRow opens a row under e, the seal key of the row's epoch. The caller wipes
// the secret. ErrRowNotOpened.
func openRow(e *derive.Secret, row *store.Row) (*derive.Secret, error) {
	var c [32]byte
	defer clear(c[:])
	_, err := derive.NewAEAD(e).Open(c[:0], row.Sealed[:12], row.Sealed[12:], rowData(row.Tag, row.Interval, row.Epoch))
	if err != nil {
		return nil, fmt.Errorf("%w: occurrence %v, interval %d", ErrRowNotOpened, row.Tag, row.Interval)
	}
	return derive.NewSecret(c[:])
}
