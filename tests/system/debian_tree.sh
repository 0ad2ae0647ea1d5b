#!/bin/sh
# Prints the path of a tree of Debian 12 with these packages and nothing else that is not essential.
# It is made on first use, from the mirror that this machine uses, and kept in the user's cache;
# whoever changes it works on a copy. Needs root and debootstrap.
#
#   debian_tree.sh PACKAGE...
set -eu
release=bookworm
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/modelfleet
packages=$(printf '%s\n' "$@" | sort | paste -sd, -)
tree=$cache/$release-$(printf '%s' "$packages" | sha256sum | cut -c 1-12)

mkdir -p "$cache"
exec 9>"$cache/$release.lock"
flock 9
if [ ! -d "$tree" ]; then
    mirror=$(apt-get indextargets --format '$(CODENAME) $(ORIGIN) $(COMPONENT) $(REPO_URI)' \
        'Created-By: Packages' 2>/dev/null |
        awk -v release=$release '$1 == release && $2 == "Debian" && $3 == "main" { print $4; exit }')
    eval "$(apt-config shell http_proxy Acquire::http::Proxy 2>/dev/null)"
    [ -z "${http_proxy:-}" ] || export http_proxy
    rm -rf "$cache/$release-"*.new
    if ! debootstrap --variant=minbase --include="$packages" $release "$tree.new" $mirror \
        >"$cache/debootstrap.log" 2>&1; then
        tail -n 20 "$cache/debootstrap.log" >&2
        exit 1
    fi
    rm -rf "$tree.new/var/cache/apt/archives/"*.deb "$tree.new/var/lib/apt/lists/"*
    mv "$tree.new" "$tree"
fi
printf '%s\n' "$tree"
