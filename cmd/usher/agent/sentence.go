package agent

import (
	"regexp"
	"strings"
)

// packagePrefix is how errors of this repository name where they come from:
// "keyclient: no such event". It is for developers, not for a terminal.
var packagePrefix = regexp.MustCompile(`(^|: |; )(?:agent|keyclient|wire|schedule|derive|control|host|device|underlay|tunnel|sa|esp|config|reserve): `)

// plain is an error's text in one line, without the names of packages.
func plain(err error) string { return plainText(err.Error()) }

// plainText is plain for what is a text already.
func plainText(s string) string {
	s = strings.ReplaceAll(s, "\n", "; ")
	for {
		shorter := packagePrefix.ReplaceAllString(s, "$1")
		if shorter == s {
			return strings.TrimSpace(s)
		}
		s = shorter
	}
}
