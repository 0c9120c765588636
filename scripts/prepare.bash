# Sourced by scripts/demo, scripts/test and scripts/bench: finds Go and installs
# what the calling script needs from Debian. It is not run by itself.
#
#   prepare_go                 puts Go 1.26 or newer in PATH, or says which one is needed
#   prepare_packages CMD=PKG…  installs PKG where the command CMD is missing, and says so

readonly USHER_GO_NEEDED=1.26

# Debian keeps ip's and nft's programs out of a plain user's PATH.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

# Debian's sudo resets PATH, so a Go that the user has is not seen by root.
prepare_go() {
	local candidate found=
	local -a candidates=()
	command -v go >/dev/null 2>&1 && candidates+=("$(command -v go)")
	candidates+=(/usr/local/go/bin/go)
	if [ -n "${SUDO_USER:-}" ]; then
		candidate=$(runuser -u "$SUDO_USER" -- bash -lc 'command -v go' 2>/dev/null || true)
		[ -n "$candidate" ] && candidates+=("$candidate")
		candidate=$(getent passwd "$SUDO_USER" | cut -d: -f6)
		[ -n "$candidate" ] && candidates+=("$candidate/go/bin/go" "$candidate/sdk/go/bin/go" "$candidate/.local/go/bin/go")
	fi
	for candidate in "${candidates[@]}"; do
		[ -x "$candidate" ] || continue
		found="$found $candidate ($("$candidate" env GOVERSION 2>/dev/null))"
		if go_is_new_enough "$candidate"; then
			PATH="$(dirname "$(readlink -f "$candidate")"):$PATH"
			export PATH
			return 0
		fi
	done
	say "needs Go $USHER_GO_NEEDED or newer in PATH, in /usr/local/go/bin or in the PATH of the user who called sudo; found:${found:- none}"
	return 1
}

go_is_new_enough() {
	local have
	# GOTOOLCHAIN=local: the version that is installed, not one that go would fetch.
	have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
	have=${have#go}
	[ "$(printf '%s\n%s\n' "$USHER_GO_NEEDED" "$have" | sort -V | head -n 1)" = "$USHER_GO_NEEDED" ]
}

prepare_packages() {
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%=*}" ] || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
	if [ "$(id -u)" -ne 0 ]; then
		say "lacks these Debian packages, and only root can install them: ${missing[*]}"
		return 1
	fi
	if ! command -v apt-get >/dev/null 2>&1; then
		say "lacks these programs, install them by hand (names of Debian's packages): ${missing[*]}"
		return 1
	fi
	say "installs from Debian: ${missing[*]}"
	# tshark asks whether everybody may capture; no question is asked here.
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
	apt-get update -qq >/dev/null || { say "apt-get update failed: is Debian's package server reachable?"; return 1; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && return 0
	say "apt-get could not install: ${missing[*]}"
	return 1
}

# One line that says what this machine lacks for network namespaces, or nothing.
lacks() {
	[ "$(id -u)" -eq 0 ] || { echo "root (call it with sudo)"; return; }
	[ -c /dev/net/tun ] || { echo "/dev/net/tun (modprobe tun, or give the container --device /dev/net/tun)"; return; }
	unshare --net --mount true 2>/dev/null || { echo "the right to make network and mount namespaces (CAP_SYS_ADMIN)"; return; }
}
