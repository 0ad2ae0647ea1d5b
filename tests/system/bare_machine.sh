#!/bin/sh
# Runs commands in a clone of this checkout on a Debian 12 that has nothing but what README.md asks for:
# python3, python3-venv, git, make and ca-certificates. Needs root, debootstrap and systemd-nspawn.
#
#   bare_machine.sh [COMMAND...]      each COMMAND by /bin/sh; without any: `make demo` and `make test`
#
# How this machine reaches a package index (pip's configuration, certificates, folders of wheels) is
# carried into the tree; nothing else is.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -gt 0 ] || set -- 'make demo' 'make test'

tree=$("$root/tests/system/debian_tree.sh" python3 python3-venv git make ca-certificates)
machine=$(mktemp -d "${TMPDIR:-/tmp}/bare-machine-XXXXXX")
trap 'rm -rf "$machine"' EXIT
cp -a --reflink=auto "$tree/." "$machine"
git clone --quiet --no-hardlinks "$root" "$machine/root/modelfleet"

carry() {
    [ -e "$1" ] || return 0
    mkdir -p "$machine$(dirname "$1")"
    cp -aL "$1" "$machine$(dirname "$1")/"
}
# Folders of wheels are bound, for they may be large; files are copied.
binds=''
for path in $(python3 -m pip config debug | sed -n "s/^ *\(\/.*\), exists: True$/\1/p"); do
    carry "$path"
done
for value in $(python3 -m pip config list | cut -d= -f2- | tr -d "'"); do
    path=${value#file://}
    case $path in
    /*)
        top=/$(printf '%s' "$path" | cut -d/ -f2-3)
        if [ -d "$path" ]; then
            case " $binds " in *"--bind-ro=$top "*) ;; *) binds="$binds --bind-ro=$top" ;; esac
        else
            carry "$path"
        fi
        ;;
    esac
done
settings=$(env | sed -n 's/^\(\(PIP_[A-Z_]*\|[a-z]*_proxy\|[A-Z]*_PROXY\|SSL_CERT_FILE\)=.*\)$/--setenv=\1/p')

for command; do
    echo "----- on a bare machine: $command"
    # shellcheck disable=SC2086 # both lists are words without blanks
    systemd-nspawn --quiet --directory="$machine" --register=no --keep-unit --console=pipe \
        --resolv-conf=bind-host --setenv=HOME=/root --setenv=LANG=C.UTF-8 --chdir=/root/modelfleet \
        $binds $settings /bin/sh -c "$command" </dev/null
done
