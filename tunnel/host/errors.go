package host

import "errors"

var (
	// ErrPlan is a plan that cannot be applied: a bad name, address or flow.
	ErrPlan = errors.New("host: unusable plan")
	// ErrNotInThisVersion is a flow that this version cannot steer or guard:
	// unicast, IPv6, or another protocol than UDP.
	ErrNotInThisVersion = errors.New("host: not in this version")
	// ErrESPPort is a flow made of nothing but the port of the ciphertext: the
	// guard would refuse the tunnel's own packets.
	ErrESPPort = errors.New("host: the flow's port is the tunnel's own")
	// ErrNoInterface is a real interface that does not exist, or that no route
	// leads to.
	ErrNoInterface = errors.New("host: no such interface")
	// ErrNoTUN says that the tunnel's interface does not exist (yet). The guard
	// stands all the same.
	ErrNoTUN = errors.New("host: the tunnel's interface does not exist")
	// ErrNotTUN is an interface under the tunnel's name that is something else:
	// it is left alone.
	ErrNotTUN = errors.New("host: not a TUN interface")
	// ErrGuard is a guard that could not be installed whole. Cleartext may pass;
	// an agent must not go on.
	ErrGuard = errors.New("host: the guard does not stand")
)
