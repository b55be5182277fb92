# Shared by the scripts of this folder; to be sourced.
# shellcheck shell=bash

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# Tools of administrators (mkfs, nft, ip) are not on every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if [ -d "${HOME:-}/.cargo/bin" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
export PATH

target=${CARGO_TARGET_DIR:-$root/target}

say() { printf '== %s\n' "$*"; }

# One sentence: what was expected, what was found, what to do.
fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Fails unless $1 is a whole number; $2 says which.
need_number() {
  case $1 in
    '' | *[!0-9]*) fail "expected $2 as a whole number, found '$1'; see the first lines of this script" ;;
  esac
}
