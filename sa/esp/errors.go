package esp

import "errors"

// The errors of this package. Those of [Cipher.Open] are returned as they are, never wrapped:
// the packet path compares them and must not allocate.
var (
	// ErrNotInThisVersion refuses a transform that is known by name and number, but not built yet.
	ErrNotInThisVersion = errors.New("esp: transform is not in this version")
	// ErrUnknownTransform refuses a name or number that names no transform of docs/keying.md §2.
	ErrUnknownTransform = errors.New("esp: unknown transform")
	// ErrMaterialLength refuses key material that is not key 32 ‖ salt 4.
	ErrMaterialLength = errors.New("esp: key material must be 36 bytes (key 32, salt 4)")
	// ErrShort is a packet that is truncated: shorter than header, one word and ICV, or not whole words.
	ErrShort = errors.New("esp: packet is truncated")
	// ErrBadICV is a packet that does not authenticate; its bytes are gone.
	ErrBadICV = errors.New("esp: integrity check failed")
	// ErrBadPadding is an authentic packet whose pad length or padding bytes are wrong.
	ErrBadPadding = errors.New("esp: padding is wrong")
	// ErrBadNextHeader is an authentic packet that carries neither IPv4 nor IPv6 nor a dummy.
	ErrBadNextHeader = errors.New("esp: next header is not 4, 41 or 59")
	// ErrWiped is returned by a cipher whose key was wiped.
	ErrWiped = errors.New("esp: key is wiped")
)
