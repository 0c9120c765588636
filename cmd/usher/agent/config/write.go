package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// SetServer writes server and ca_sha256 into a TOML, and leaves all else as it
// is, comments too. The file is replaced in one step and only by a text that
// [Parse] takes; where there was none it is made. It returns what the file says
// now.
func SetServer(file, server, fingerprint string) (*Config, error) {
	old, err := os.ReadFile(file)
	mode := fs.FileMode(0o644)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		info, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		mode = info.Mode().Perm()
	}
	text := setKey(setKey(old, "ca_sha256", fingerprint), "server", server)
	c, err := Parse(file, text)
	if err != nil {
		return nil, err
	}
	if err := replace(file, text, mode); err != nil {
		return nil, fmt.Errorf("config: write %s: %w", file, err)
	}
	return c, nil
}

// setKey gives a key at the top of the document its value: in its own line, in
// that of its commented example, or in front of everything.
func setKey(text []byte, key, value string) []byte {
	line := fmt.Appendf(nil, "%s = %q", key, value)
	top := len(text)
	if at := tableLine.FindIndex(text); at != nil {
		top = at[0]
	}
	for _, pattern := range []string{`(?m)^[ \t]*` + key + `[ \t]*=.*$`, `(?m)^#[ \t]*` + key + `[ \t]*=.*$`} {
		if at := regexp.MustCompile(pattern).FindIndex(text[:top]); at != nil {
			return bytes.Join([][]byte{text[:at[0]], line, text[at[1]:]}, nil)
		}
	}
	return bytes.Join([][]byte{line, []byte("\n"), text}, nil)
}

var tableLine = regexp.MustCompile(`(?m)^[ \t]*\[`)

// replace puts a file in the place of another: who reads sees the one or the
// other, also after a power cut.
func replace(file string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
