"""Makes an agent's configuration fit the units; `install.sh` runs it with the agent's own Python.

`fleet device add --output FILE` writes paths of the machine that it runs on. On a device, systemd
holds the sockets and lets the agent write to one directory only, so these paths are set right here,
each change with a word about it. Where the configuration asks for another address or another state
directory than the units have, the drop-ins that grant it are written beside it.
"""  # noqa: INP001 - a program beside the units, not a package

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.config import AgentConfig, load_config
from wire.endpoint import parse_broker_url
from wire.errors import ConfigError

RUN_DIR: Final = Path("/run/modelfleet")
DEFAULT_SOCKET: Final = RUN_DIR / "agent.sock"
DEFAULT_LISTEN: Final = "127.0.0.1:8600"
DEFAULT_STATE: Final = Path("/var/lib/modelfleet")
INSTALLED_CA: Final = Path("/etc/modelfleet/broker-ca.pem")
INSTALLED_ROOT: Final = Path("/etc/modelfleet/root.json")
HIDDEN: Final = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys")  # noqa: S108 - refused
"""What the unit hides from the agent, or what does not survive."""

SOCKET_DROP_IN: Final = """\
# Written by install.sh from [serve] in /etc/modelfleet/agent.toml.
[Socket]
ListenStream=
{streams}
"""
STATE_DROP_IN: Final = """\
# Written by install.sh --state {state}
[Unit]
RequiresMountsFor={state}

[Service]
StateDirectory=
ReadWritePaths={state}
# Before each start: another root file system may know the user by another number.
ExecStartPre=+/usr/bin/install -d -m 0700 {state}
ExecStartPre=+/usr/bin/chown -R modelfleet:modelfleet {state}
ExecStartPre=+/usr/bin/chgrp modelfleet /etc/modelfleet/agent.toml
"""


class Edited:
    """A TOML text in which single strings are replaced, comments and all else kept."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._data: dict[str, Any] = tomllib.loads(text)

    def get(self, section: str, key: str) -> str | None:
        """Return a value, or None; a value of another type is the agent's to refuse."""
        found = self._data.get(section)
        value = found.get(key) if isinstance(found, dict) else None
        return value if isinstance(value, str) else None

    def set(self, section: str, key: str, value: str) -> None:
        """Set one key to a string.

        Raises:
            ConfigError: `config_invalid`: it is written in a way that only a person can change.
        """
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        head = rf"(?m)^[ \t]*\[[ \t]*{section}[ \t]*\][ \t]*(?:#.*)?$"
        if not (found := re.search(head, self.text)):
            new = f"{self.text.rstrip()}\n\n[{section}]\n{line}\n"
        else:
            start = found.end()
            following = re.search(r"(?m)^[ \t]*\[", self.text[start:])
            end = start + following.start() if following else len(self.text)
            body, count = re.subn(
                rf"(?m)^[ \t]*{key}[ \t]*=.*$", lambda _: line, self.text[start:end], count=1
            )
            body = body if count else f"\n{line}{self.text[start:end]}"
            new = self.text[:start] + body + self.text[end:]
        section_data = self._data.get(section)
        known = section_data if isinstance(section_data, dict) else {}
        expected = self._data | {section: known | {key: value}}
        if _parsed(new) != expected:
            raise ConfigError(
                f"cannot set {key} in [{section}] here",
                code="config_invalid",
                hint=f"write it as a line `{line}` below `[{section}]`",
            )
        self.text, self._data = new, expected


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def fit(source: Path, state: Path, folder: Path) -> list[str]:
    """Write the configuration and the addresses that it needs to `folder`; return what to tell.

    Raises:
        ConfigError: It is not a valid configuration, or not one that can be had under systemd.
    """
    load_config(source)  # what is wrong with it is said in its own words first
    edited = Edited(source.read_text(encoding="utf-8"))
    told = [*_fit_state(edited, state), *_fit_socket(edited)]
    for section, key, installed in (
        ("broker", "ca", INSTALLED_CA),
        ("trust", "root", INSTALLED_ROOT),
    ):
        told += _fit_file(edited, source, folder, section=section, key=key, installed=installed)
    target = folder / "agent.toml"
    target.write_text(edited.text, encoding="utf-8")
    config = load_config(target)
    # Judged where they lie now, named as where they will.
    if config.broker is not None and config.broker.ca is not None:
        edited.set("broker", "ca", str(INSTALLED_CA))
    if config.trust.root is not None:
        edited.set("trust", "root", str(INSTALLED_ROOT))
    target.write_text(edited.text, encoding="utf-8")
    if drop_in := _socket_drop_in(config):
        (folder / "socket.conf").write_text(drop_in)
    for what, host in _peers(config):
        if _is_loopback(host):
            told.append(f"note the {what} is at {host}, which is this device itself")
    return told


def _peers(config: AgentConfig) -> Iterator[tuple[str, str]]:
    if config.broker is not None:
        yield "broker", parse_broker_url(config.broker.url).host
    if config.enroll is not None:
        yield "controller", urlsplit(config.enroll.url).hostname or ""


def grant_state(state: Path, folder: Path) -> None:
    """Write what the service needs to keep its state there, unless it has it anyway.

    Raises:
        ConfigError: The directory is no place for state.
    """
    if not state.is_absolute() or not re.fullmatch(r"[A-Za-z0-9/._-]+", str(state)):
        raise ConfigError(f"--state {state} is not an absolute plain path", code="config_invalid")
    if any(state.is_relative_to(path) for path in HIDDEN) or state == Path("/"):
        raise ConfigError(
            f"--state {state} would be out of the unit's reach, or not last",
            code="config_invalid",
            hint="choose a directory of its own on a disk, such as /data/modelfleet",
        )
    if state != DEFAULT_STATE:
        (folder / "state.conf").write_text(STATE_DROP_IN.format(state=state))


def _fit_state(edited: Edited, state: Path) -> list[str]:
    was = edited.get("state", "dir")
    if was == str(state):
        return []
    edited.set("state", "dir", str(state))
    return [f"adjusted [state] dir is {state} now, it was {was or 'not set'}"]


def _fit_socket(edited: Edited) -> list[str]:
    was = edited.get("serve", "socket")
    if was is not None and Path(was).parent == RUN_DIR:
        return []
    edited.set("serve", "socket", str(DEFAULT_SOCKET))
    return [f"adjusted [serve] socket is {DEFAULT_SOCKET} now, it was {was or 'not set'}"]


def _fit_file(
    edited: Edited, source: Path, folder: Path, *, section: str, key: str, installed: Path
) -> list[str]:
    """Take a file along that the configuration names."""
    was = edited.get(section, key)
    if was is None:
        return []
    path = source.resolve().parent / was
    try:
        shutil.copyfile(path, folder / installed.name)
    except OSError as exc:
        raise ConfigError(
            f"{source}: {section}.{key}: cannot read {path}: {exc.strerror}",
            code="config_invalid",
            hint="copy it to the device too; a relative path starts from the configuration",
        ) from exc
    edited.set(section, key, str(folder.resolve() / installed.name))
    if was == str(installed):
        return []
    return [f"adjusted [{section}] {key} is {installed} now, a copy of {path}"]


def _socket_drop_in(config: AgentConfig) -> str | None:
    """Return what fleet-agent.socket needs to listen where the configuration says."""
    listen, unix = config.serve.listen, config.serve.socket
    if (listen, unix) == (DEFAULT_LISTEN, DEFAULT_SOCKET):
        return None
    if config.serve.address is not None:
        try:
            ipaddress.ip_address(config.serve.address[0])
        except ValueError as exc:
            raise ConfigError(
                f"serve.listen: {listen} has no IP address",
                code="config_invalid",
                hint="systemd opens the socket and knows no names: write 127.0.0.1 or [::1]",
            ) from exc
    streams = "\n".join(f"ListenStream={address}" for address in (listen, unix) if address)
    return SOCKET_DROP_IN.format(streams=streams)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", help="without one: the drop-in for --state")
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE)
    parser.add_argument("--into", type=Path, required=True, help="an empty folder")
    options = parser.parse_args()
    try:
        grant_state(options.state, options.into)
        told = fit(options.file, options.state, options.into) if options.file else []
    except (ConfigError, OSError) as exc:
        hint = getattr(exc, "hint", None)
        sys.stderr.write(f"{exc}\n" + (f"  {hint}\n" if hint else ""))
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
