package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"usher/server/key"
	"usher/server/store"
	"usher/server/store/sqlite"
	"usher/server/ticket"
)

// Files of the state folder, beside the CA's and the roles' certificates
// (package ticket).
const (
	masterKeyFile = "master.key"
	ratchetFile   = "ratchet"
)

// configText is the first server.toml. configs/server.toml explains all keys.
var configText = template.Must(template.New("server.toml").Parse(`# usher-server: see configs/server.toml for every setting.

# Names and addresses by which agents reach this server; its URLs have the first.
hosts = [{{range $i, $h := .Hosts}}{{if $i}}, {{end}}{{printf "%q" $h}}{{end}}]
{{if ne .State .DefaultState}}
state = {{printf "%q" .State}}
{{end}}{{if ne .Ticket.Listen .DefaultTicket}}
[ticket]
listen = {{printf "%q" .Ticket.Listen}}
{{end}}{{if ne .Key.Listen .DefaultKey}}
[key]
listen = {{printf "%q" .Key.Listen}}
{{end}}`))

// Setup makes a new server: state folder, CA, keys, database and, where
// configFile is not "", its configuration. It overwrites nothing: ErrSetUp
// names what is there. What it made before an error is removed again.
func Setup(ctx context.Context, c Config, configFile string, now time.Time) (err error) {
	if c.Database == "" {
		c.Database = c.path("usher.db")
	}
	if err := c.check(func(key, format string, args ...any) error {
		return fmt.Errorf("%w: %s: %w", ErrConfig, key, fmt.Errorf(format, args...))
	}); err != nil {
		return err
	}
	made := []string{configFile, c.Database, c.Database + "-wal", c.Database + "-shm"}
	for _, name := range []string{"ca.key", "ca.pem", "ticket.key", "ticket.pem", "tls-ticket.key", "tls-ticket.pem",
		"tls-key.key", "tls-key.pem", masterKeyFile, ratchetFile} {
		made = append(made, c.path(name))
	}
	for _, name := range made {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%w: %s exists: nothing was changed", ErrSetUp, name)
		}
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range made {
			if name != "" {
				os.Remove(name) //nolint:errcheck // the first error says more
			}
		}
	}()
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	auth, err := ticket.CreateAuthority(c.State, now)
	if err != nil {
		return err
	}
	if err := ticket.CreateSigner(c.State, auth, now); err != nil {
		return err
	}
	for _, name := range []string{"tls-ticket", "tls-key"} {
		if _, err := ticket.NewLeaf(c.State, name, c.Hosts, auth.Certificate(), auth, func() time.Time { return now }); err != nil {
			return err
		}
	}
	if err := key.CreateMasterKey(c.path(masterKeyFile)); err != nil {
		return err
	}
	if err := key.CreateRatchet(c.path(ratchetFile), c.path(masterKeyFile), now); err != nil {
		return err
	}
	s, err := sqlite.Open(ctx, c.Database, sqlite.Options{})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if configFile == "" {
		return nil
	}
	return writeConfig(c, configFile)
}

func writeConfig(c Config, file string) error {
	d := DefaultConfig()
	var text bytes.Buffer
	err := configText.Execute(&text, struct {
		Config
		DefaultState, DefaultTicket, DefaultKey string
	}{c, d.State, d.Ticket.Listen, d.Key.Listen})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

// OpenStore opens the store of a server that Setup made. ErrNotSetUp where it
// did not: a mistyped path must not make an empty one, and a file that lost all
// it held must not pass for one.
func OpenStore(ctx context.Context, c Config) (store.Store, error) {
	info, err := os.Stat(c.Database)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing: run usher-server init", ErrNotSetUp, c.Database)
	}
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return nil, fmt.Errorf("%w: %s is empty: restore it from a backup", ErrNotSetUp, c.Database)
	}
	s, err := sqlite.Open(ctx, c.Database, sqlite.Options{})
	if err != nil {
		return nil, err // a nil *sqlite.Store in an interface would not be nil
	}
	return s, nil
}
