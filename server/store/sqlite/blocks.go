package sqlite

import (
	"context"
	"fmt"

	"usher/keyclient/derive"
	"usher/server/store"
)

// Blocks of one occurrence, by index.
func (r *reader) Blocks(ctx context.Context, tag derive.Tag) ([]store.Block, error) {
	return collect(ctx, r, func(row scanner) (store.Block, error) {
		b := store.Block{Tag: tag}
		err := row.Scan(&b.Index, &b.Owner, &b.Client, &b.ExpiresMS)
		return b, err
	}, `SELECT idx, owner, client, expires_ms FROM sender_blocks WHERE tag = ? ORDER BY idx`, tag[:])
}

// TakeBlock reserves the lowest free block of the request's range.
func (t *tx) TakeBlock(ctx context.Context, r store.BlockRequest) (store.Block, error) {
	if _, err := t.Occurrence(ctx, r.Tag); err != nil {
		return store.Block{}, err
	}
	blocks, err := t.Blocks(ctx, r.Tag)
	if err != nil {
		return store.Block{}, err
	}
	used, held := map[uint16]bool{}, 0
	for _, b := range blocks {
		if b.ExpiresMS <= r.NowMS {
			continue
		}
		used[b.Index] = true
		if r.Client != 0 && b.Client == r.Client {
			held++
		}
	}
	if r.Client != 0 && r.ClientLimit > 0 && held >= r.ClientLimit {
		return store.Block{}, fmt.Errorf("%w: client %d holds %d blocks of occurrence %s", store.ErrSenderIDs, r.Client, held, r.Tag)
	}
	index := int(r.FirstIndex)
	for used[uint16(index)] && index <= int(r.LastIndex) {
		index++
	}
	if index > int(r.LastIndex) || index >= store.BlockCount {
		return store.Block{}, fmt.Errorf("%w: occurrence %s", store.ErrSenderIDs, r.Tag)
	}
	b := store.Block{Tag: r.Tag, Index: uint16(index), Owner: r.Owner, Client: r.Client, ExpiresMS: r.ExpiresMS}
	_, err = t.exec(ctx, `INSERT INTO sender_blocks (tag, idx, owner, client, expires_ms) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (tag, idx) DO UPDATE SET owner = excluded.owner, client = excluded.client, expires_ms = excluded.expires_ms`,
		b.Tag[:], b.Index, b.Owner, b.Client, b.ExpiresMS)
	if err != nil {
		return store.Block{}, err
	}
	return b, t.changed(ctx, store.KindBlock, b.Tag)
}

// ExtendBlock keeps a block for longer.
func (t *tx) ExtendBlock(ctx context.Context, tag derive.Tag, index uint16, owner string, expiresMS int64) error {
	n, err := t.exec(ctx, `UPDATE sender_blocks SET expires_ms = max(expires_ms, ?) WHERE tag = ? AND idx = ? AND owner = ?`,
		expiresMS, tag[:], index, owner)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: block %d of occurrence %s of %s", store.ErrNotFound, index, tag, owner)
	}
	return t.changed(ctx, store.KindBlock, tag)
}
