package ticket

import "errors"

// Errors of this package, wrapped with what is wrong and where.
var (
	// ErrNoCA: the folder has no CA; usher-server init makes one.
	ErrNoCA = errors.New("ticket: no CA")
	// ErrFile: a key or certificate file is not what it should be.
	ErrFile = errors.New("ticket: bad key or certificate file")
	// ErrCSR: the certificate request is damaged, or its key is not ECDSA P-256.
	ErrCSR = errors.New("ticket: bad certificate request")
	// ErrHash: a stored password hash is no argon2id string of ours.
	ErrHash = errors.New("ticket: bad password hash")
	// ErrBusy: more logins are waiting than the server takes.
	ErrBusy = errors.New("ticket: too many logins at once")
	// ErrNoClient: a certificate names no client.
	ErrNoClient = errors.New("ticket: certificate names no client")
)
