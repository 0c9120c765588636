package ticket

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of a new hash (docs/design.md §5: argon2id). About 40 ms of a core.
const (
	hashMemoryKiB = 19 << 10
	hashPasses    = 2
	hashLanes     = 1
	hashSaltLen   = 16
	hashLen       = 32
)

// What a stored hash may ask for: a damaged one must not take the machine.
const (
	maxMemoryKiB = 256 << 10
	maxPasses    = 16
	maxLanes     = 4
)

// maxPassword is the longest password, in bytes, that is looked at.
const maxPassword = 1024

// HashPassword hashes a password with a random salt into a PHC string:
// $argon2id$v=19$m=19456,t=2,p=1$salt$hash.
func HashPassword(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", maxPassword)
	}
	salt := make([]byte, hashSaltLen)
	rand.Read(salt) //nolint:errcheck // never fails: the runtime ends the process instead
	sum := argon2.IDKey([]byte(password), salt, hashPasses, hashMemoryKiB, hashLanes, hashLen)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, hashMemoryKiB, hashPasses, hashLanes, b64(salt), b64(sum)), nil
}

// phc is a parsed PHC string.
type phc struct {
	memory, passes uint32
	lanes          uint8
	salt, sum      []byte
}

// parsePHC reads what HashPassword writes, also with other costs. ErrHash.
func parsePHC(text string) (*phc, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, fmt.Errorf("%w: not argon2id of version %d", ErrHash, argon2.Version)
	}
	p := new(phc)
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", p.memory, p.passes, p.lanes) {
		return nil, fmt.Errorf("%w: costs", ErrHash)
	}
	if p.memory < 8 || p.memory > maxMemoryKiB || p.passes < 1 || p.passes > maxPasses || p.lanes < 1 || p.lanes > maxLanes {
		return nil, fmt.Errorf("%w: costs out of range", ErrHash)
	}
	var err error
	if p.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(p.salt) < 8 || len(p.salt) > 64 {
		return nil, fmt.Errorf("%w: salt", ErrHash)
	}
	if p.sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(p.sum) < 16 || len(p.sum) > 64 {
		return nil, fmt.Errorf("%w: hash", ErrHash)
	}
	return p, nil
}

func (p *phc) matches(password string) bool {
	sum := argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.sum)))
	return subtle.ConstantTimeCompare(sum, p.sum) == 1
}

// checker checks passwords, a few at a time: each takes 19 MiB for 40 ms, so a
// flood of logins would be a flood of memory.
type checker struct {
	slots   chan struct{} // taken while a hash is made
	waiting chan struct{} // taken while in the queue or at work
	unknown *phc          // stands in for the hash of a name that is not there
}

func newChecker(atOnce, queue int) (*checker, error) {
	text, err := HashPassword(rand.Text())
	if err != nil {
		return nil, err
	}
	unknown, err := parsePHC(text)
	if err != nil {
		return nil, err
	}
	return &checker{slots: make(chan struct{}, atOnce), waiting: make(chan struct{}, atOnce+queue), unknown: unknown}, nil
}

// check tells whether a password is the one of a stored hash. An empty hash, of
// an unknown name, costs the same and never matches. ErrBusy, ErrHash.
func (c *checker) check(ctx context.Context, password, hash string) (bool, error) {
	select {
	case c.waiting <- struct{}{}:
		defer func() { <-c.waiting }()
	default:
		return false, ErrBusy
	}
	stored, known := c.unknown, hash != ""
	if known {
		var err error
		if stored, err = parsePHC(hash); err != nil {
			return false, err
		}
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return stored.matches(password) && known, nil
}
