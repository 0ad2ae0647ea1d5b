#!/bin/sh
# Installs, upgrades and removes the modelfleet agent on a device, from the wheelhouse that this
# script lies in, without a network. What it makes is listed in docs/runbook.md.
#
# A version is built beside the running one and switched to by one rename, so that whatever fails
# before leaves the old one serving; one that does not start is switched back.
set -eu
umask 022

PREFIX=/opt/modelfleet # a link to one of the versions
VERSIONS=/opt/modelfleet.versions
PREVIOUS=$VERSIONS/previous
COMMAND=/usr/local/bin/fleet-agent
CONFIG_LINK=/etc/modelfleet/agent.toml
# On a device with two root file systems it is a link to the data partition.
CONFIG=$(readlink -f $CONFIG_LINK || printf '%s' $CONFIG_LINK)
BROKER_CA=/etc/modelfleet/broker-ca.pem
TRUST_ROOT=/etc/modelfleet/root.json
UNITS=/etc/systemd/system
SERVICE=fleet-agent.service
SOCKET=fleet-agent.socket
SERVICE_DROP_IN=$UNITS/$SERVICE.d/50-install.conf
SOCKET_DROP_IN=$UNITS/$SOCKET.d/50-install.conf
SYSUSERS=/etc/sysusers.d/modelfleet.conf
TMPFILES=/etc/tmpfiles.d/modelfleet.conf
DEFAULT_STATE=/var/lib/modelfleet
USER_NAME=modelfleet
CLIENTS=modelfleet-clients

usage() {
    cat <<END
Installs the modelfleet agent on this device, or upgrades it; again is as good as once.

  ./install.sh [--config FILE] [--state DIR] [--python PROGRAM] [--no-start]
  ./install.sh --rollback
  ./install.sh --uninstall [--purge]

  --config FILE     put this configuration in place, from: fleet device add ID --output FILE;
                    the paths in it are made to fit this device, and each change is told
  --state DIR       keep the state in DIR instead of $DEFAULT_STATE, such as on a data
                    partition that outlives the root file system; remembered for upgrades
  --python PROGRAM  use this Python; else the system's own
  --no-start        have it start at the next boot only; also in an image that is being built
  --rollback        go back to the version before the last upgrade
  --uninstall       remove the agent; configuration, state and user stay
  --purge           with --uninstall: these too

Exit codes: 0 done, 1 error, 2 usage, 3 the new version did not start and the old one runs again.
END
}

step() { printf '  %-10s %s\n' "$1" "$2"; }
complain() {
    printf 'install.sh: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '  %s\n' "$2" >&2
}
die() {
    complain "$@"
    exit 1
}
silently() {
    if ! "$@" >"$staged/log" 2>&1; then
        tail -n 15 "$staged/log" >&2
        die "failed: $*" "what it said is above"
    fi
}
misused() {
    complain "$1" "./install.sh --help shows what there is"
    exit 2
}

action=install config='' state='' python='' is_starting=yes is_purging=no
while [ $# -gt 0 ]; do
    case $1 in
    --config | --state | --python)
        [ $# -ge 2 ] || misused "$1 needs a value"
        case $1 in
        --config) config=$2 ;;
        --state) state=$2 ;;
        --python) python=$2 ;;
        esac
        shift
        ;;
    --no-start) is_starting=no ;;
    --rollback) action=rollback ;;
    --uninstall) action=uninstall ;;
    --purge) is_purging=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) misused "unknown argument: $1" ;;
    esac
    shift
done
[ "$is_purging" = no ] || [ "$action" = uninstall ] || misused "--purge goes with --uninstall"
[ "$action" = install ] || [ -z "$config$state$python" ] || misused "--$action takes no such option"
house=$(cd "$(dirname "$0")" && pwd)
old='' new='' unfinished='' staged='' is_switching=no is_socket_new=no

# ---- the device

check_device() {
    [ "$(id -u)" -eq 0 ] || die "this needs root" "sudo $0"
    command -v systemctl >/dev/null || die "no systemd on this device" "the agent's units need it"
    [ -d /run/systemd/system ] || [ "$is_starting" = no ] ||
        die "systemd does not run here" "in an image that is being built: --no-start"
    mkdir -p /opt
    exec 9</opt
    flock -n 9 || die "another install.sh is at work"
}

check_wheelhouse() {
    [ -r "$house/wheelhouse.conf" ] || die "no wheelhouse in $house" "make wheelhouse makes one"
    # VERSION, ARCH, PYTHON_VERSION, GLIBC_MINOR
    . "$house/wheelhouse.conf"
    arch=$(uname -m)
    [ "$arch" = "$ARCH" ] ||
        die "this wheelhouse is for $ARCH, this device is $arch" "make wheelhouse ARCH=$arch"
}

find_python() {
    if [ -z "$python" ]; then
        for python in "/usr/bin/python$PYTHON_VERSION" "/usr/local/bin/python$PYTHON_VERSION" \
            /usr/bin/python3 "$(command -v python3 || true)" ''; do
            [ ! -x "$python" ] || break
        done
    fi
    [ -n "$python" ] || die "no Python here" "on Debian: apt-get install python3 python3-venv"
    "$python" - "$PYTHON_VERSION" "$GLIBC_MINOR" <<'END' || exit 1
import os, platform, sys
def refuse(text, hint):
    sys.exit(f"install.sh: {text}\n  {hint}")
wanted, glibc = sys.argv[1], int(sys.argv[2])
found, program = ".".join(map(str, sys.version_info[:2])), os.path.realpath(sys.executable)
if found != wanted:
    refuse(f"this wheelhouse is for Python {wanted}, {sys.executable} is {found}",
           f"--python PROGRAM names another; or: make wheelhouse PYTHON_VERSION={found}")
if program.startswith(("/home/", "/root/", "/run/", "/tmp/")):
    refuse(f"{program} is out of the service's reach", "--python /usr/bin/python3 is the system's")
name, version = platform.libc_ver()
if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, glibc):
    refuse(f"this device has {name or 'an unknown libc'} {version}, the wheels need glibc 2.{glibc}",
           "there are no wheels for it")
try:
    import ensurepip, venv
except ImportError:
    refuse(f"{sys.executable} cannot make virtual environments",
           f"on Debian: apt-get install python3-venv (or python{wanted}-venv)")
END
}

# ---- versions

# pip and the agent see nothing of the device's settings: no index, no proxy, no home.
clean() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/nonexistent \
        PIP_CONFIG_FILE=/dev/null PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 \
        ORT_DISABLE_TELEMETRY=1 "$@"
}

version_of() { # LINK: the version that it leads to, or nothing
    link=$(readlink "$1" 2>/dev/null) || return 0
    printf '%s' "${link##*/}"
}

build_version() {
    new="$VERSION-$(sha256sum "$house/requirements.lock" | cut -c 1-8)"
    target=$VERSIONS/$new
    if [ -e "$target/complete" ]; then
        step programs "$target, there already"
        return
    fi
    [ ! -e $PREFIX ] || [ -L $PREFIX ] ||
        die "$PREFIX is there and not from this script" "move it away first"
    rm -rf "$target"
    mkdir -p "$target"
    unfinished=$target
    silently clean "$python" -m venv "$target"
    silently clean "$target/bin/python" -m pip install --disable-pip-version-check --no-index \
        --find-links "$house/wheels" --require-hashes -r "$house/requirements.lock"
    # Here rather than in service: a processor or a library that the wheels are not made for.
    silently clean "$target/bin/python" -c 'import agent.cli, agent.runtime.server, onnxruntime'
    cp -R "$house/systemd" "$target/systemd"
    cp "$house/device_config.py" "$target/systemd/"
    cp "$house/install.sh" "$target/"
    sync # all of it is on disk before anything says so
    : >"$target/complete"
    unfinished=''
    step programs "$target"
}

# ---- files

# place MODE GROUP FROM TO: whole or not at all
place() {
    mkdir -p "$(dirname "$4")"
    cp "$3" "$4.new"
    chmod "$1" "$4.new"
    chgrp "$2" "$4.new"
    sync "$4.new"
    mv -f "$4.new" "$4"
}

# The same, or gone where there is no FROM; says in is_changed whether it was different before.
settle() {
    is_changed=yes
    if [ -e "$3" ]; then
        if cmp -s "$3" "$4"; then is_changed=no; else place "$@"; fi
    elif [ -e "$4" ]; then
        rm "$4"
        rmdir "$(dirname "$4")" 2>/dev/null || :
    else
        is_changed=no
    fi
}

settle_socket() {
    settle "$@"
    [ "$is_changed" = no ] || is_socket_new=yes
}

switch_to() {
    units=$VERSIONS/$1/systemd
    place 644 root "$units/modelfleet.sysusers.conf" $SYSUSERS
    place 644 root "$units/modelfleet.tmpfiles.conf" $TMPFILES
    silently systemd-sysusers $SYSUSERS
    silently systemd-tmpfiles --create $TMPFILES
    settle_socket 644 root "$units/$SOCKET" $UNITS/$SOCKET
    place 644 root "$units/$SERVICE" $UNITS/$SERVICE
    ln -sfn "$VERSIONS/$1" $PREFIX.new
    mv -fT $PREFIX.new $PREFIX
    ln -sfn $PREFIX/bin/fleet-agent $COMMAND 2>/dev/null ||
        step command "$COMMAND cannot be made; call $PREFIX/bin/fleet-agent"
}

# What a configuration consists of, from the folder $1; what is not in there is removed.
settle_config() {
    settle 640 $USER_NAME "$1/agent.toml" "$CONFIG"
    settle 644 root "$1/broker-ca.pem" $BROKER_CA
    settle 644 root "$1/root.json" $TRUST_ROOT
    settle 644 root "$1/state.conf" $SERVICE_DROP_IN
    settle_socket 644 root "$1/socket.conf" $SOCKET_DROP_IN
}

save_config() {
    mkdir "$staged/before"
    for pair in "agent.toml:$CONFIG" broker-ca.pem:$BROKER_CA root.json:$TRUST_ROOT state.conf:$SERVICE_DROP_IN \
        socket.conf:$SOCKET_DROP_IN; do
        [ ! -e "${pair#*:}" ] || cp "${pair#*:}" "$staged/before/${pair%%:*}"
    done
}

# Make the configuration fit, and have the new version judge it, before anything is changed.
prepare_config() {
    remembered=$(sed -n 's/^ReadWritePaths=//p' $SERVICE_DROP_IN 2>/dev/null || :)
    state=${state:-${remembered:-$DEFAULT_STATE}}
    [ -n "$config" ] || [ ! -e "$CONFIG" ] || config=$CONFIG
    mkdir "$staged/after"
    clean "$VERSIONS/$new/bin/python" "$VERSIONS/$new/systemd/device_config.py" \
        --state "$state" --into "$staged/after" ${config:+"$config"} >"$staged/told" ||
        die "the configuration cannot be used; nothing was changed"
    while read -r label line; do
        step "$label" "$line"
    done <"$staged/told"
}

put_config() {
    settle_config "$staged/after"
    if [ -e "$CONFIG" ]; then
        step config "$CONFIG, state in $state"
    else
        place 640 $USER_NAME "$VERSIONS/$new/systemd/agent.toml" $CONFIG_LINK.sample
        step config "none yet; $CONFIG_LINK.sample shows one"
    fi
}

# ---- the service

start() {
    systemctl daemon-reload && systemctl --quiet enable $SOCKET $SERVICE || return 1
    if [ "$is_socket_new" = yes ]; then
        systemctl stop $SERVICE $SOCKET
        is_socket_new=no
    fi
    systemctl start $SOCKET && systemctl restart $SERVICE
}

change_over() {
    save_config
    is_switching=yes
    switch_to "$new"
    put_config
    if [ "$is_starting" = no ]; then
        systemctl --quiet enable $SOCKET $SERVICE
        step service "not started; it is at the next boot, with $CONFIG_LINK"
    elif [ ! -e "$CONFIG" ]; then
        step service "not started: ./install.sh --config FILE puts a configuration in place"
    elif start; then
        step service "$SERVICE runs; look at it with: fleet-agent status"
    else
        systemctl --no-pager --lines=0 status $SOCKET $SERVICE >&2 || :
        journalctl --quiet --no-pager --lines=15 --unit=$SERVICE >&2 || :
        if [ -z "$old" ] || [ ! -e "$staged/before/agent.toml" ]; then
            is_switching=no # there is nothing to go back to
            die "the agent does not start" "its last words are above; journalctl -u $SERVICE"
        fi
        complain "$new does not start" "its last words are above"
        exit 3 # and finish goes back
    fi
    is_switching=no
    before=$staged/before/agent.toml
    if [ -e "$before" ] && ! cmp -s "$before" "$CONFIG"; then
        place 640 $USER_NAME "$before" "$CONFIG.previous"
    fi
    if [ -n "$old" ] && [ "$old" != "$new" ]; then
        ln -sfn "$old" $PREVIOUS
    fi
    keep=$(version_of $PREVIOUS)
    for path in "$VERSIONS"/*; do
        case ${path##*/} in
        "$new" | "$keep" | previous) ;;
        *) rm -rf "$path" ;;
        esac
    done
}

# However this script ends: nothing half made stays, and what ran before runs.
finish() {
    code=$?
    trap - EXIT
    set +e
    if [ -n "$unfinished" ]; then
        rm -rf "$unfinished"
        complain "version $VERSION is not installed, and nothing was changed"
    fi
    if [ "$is_switching" = yes ] && [ -n "$old" ]; then
        switch_to "$old"
        settle_config "$staged/before"
        if [ "$is_starting" = no ] || [ ! -e "$CONFIG" ]; then
            complain "$old is in place again"
        elif start; then
            complain "$old runs again, with its configuration"
        else
            complain "and $old does not start either" "journalctl -u $SERVICE"
            code=1
        fi
    fi
    [ -z "$staged" ] || rm -rf "$staged"
    exit "$code"
}

uninstall() {
    state=$(sed -n 's/^ReadWritePaths=//p' $SERVICE_DROP_IN 2>/dev/null || :)
    state=${state:-$DEFAULT_STATE}
    if [ -d /run/systemd/system ]; then
        systemctl --quiet stop $SERVICE $SOCKET 2>/dev/null || :
    fi
    systemctl --quiet disable $SERVICE $SOCKET 2>/dev/null || :
    rm -f $UNITS/$SERVICE $UNITS/$SOCKET $SERVICE_DROP_IN $SOCKET_DROP_IN $SYSUSERS $TMPFILES
    [ "$(readlink $COMMAND || :)" != $PREFIX/bin/fleet-agent ] || rm -f $COMMAND
    rm -rf $PREFIX $VERSIONS /run/modelfleet
    # Debian has no /etc/sysusers.d of its own; one that holds others' files stays.
    rmdir $UNITS/$SERVICE.d $UNITS/$SOCKET.d "$(dirname $SYSUSERS)" 2>/dev/null || :
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl reset-failed $SERVICE $SOCKET 2>/dev/null || :
    fi
    step removed "programs, units and sockets"
    if [ "$is_purging" = no ]; then
        step kept "/etc/modelfleet, $state, user and groups; --uninstall --purge removes them"
        return
    fi
    rm -f "$CONFIG" "$CONFIG.previous"
    rm -rf /etc/modelfleet "$state" $UNITS/$SERVICE.d $UNITS/$SOCKET.d
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    ! getent passwd $USER_NAME >/dev/null || userdel $USER_NAME
    for group in $USER_NAME $CLIENTS; do
        ! getent group "$group" >/dev/null || groupdel "$group"
    done
    step removed "/etc/modelfleet, $state, user and groups"
}

check_device
if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
trap finish EXIT
trap 'exit 1' HUP INT TERM
staged=$(mktemp -d)
old=$(version_of $PREFIX)
if [ "$action" = install ]; then
    check_wheelhouse
    find_python
    printf 'modelfleet %s for %s, Python %s\n' "$VERSION" "$ARCH" "$PYTHON_VERSION"
    build_version
else
    new=$(version_of $PREVIOUS)
    [ -n "$new" ] || die "there is no version to go back to"
    step programs "$VERSIONS/$new"
fi
prepare_config
change_over
