"""The configuration that `fleet device add` writes for an agent."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.api.admission_schemas import Invitation
from wire.enrolment import parse_token
from wire.errors import ConfigError

from .console import say

MAX_SOCKET_PATH: Final = 107
"""Bytes that Linux has for the path of a unix socket (108, with the zero at the end)."""

_TEMPLATE: Final = """\
# The agent's configuration: `fleet-agent run --config {file}`

[device]
id = {device}

[enroll]
# The first start exchanges this for key, certificate, root of trust and the broker's address. It works
# once{pin}.
url = {url}
token = {token}

[serve]
listen = {listen}
{socket}

[state]
dir = {state}
"""


@dataclass(frozen=True, slots=True)
class AgentFile:
    """One agent's configuration before it is written.

    Attributes:
        path: The file.
        device: The device's id.
        listen: Where it answers inference requests over TCP.
        socket: Its unix socket; None for `devices/ID/agent.sock` beside the file, where that is
            short enough.
        state_dir: Its state; None for `devices/ID/state` beside the file.
    """

    path: Path
    device: str
    listen: str
    socket: Path | None = None
    state_dir: Path | None = None

    @property
    def home(self) -> Path:
        """Where everything of this device goes that was not told another place."""
        return self.path.resolve().parent / "devices" / self.device

    def check(self) -> None:
        """Refuse what cannot be written, before the device is added.

        Raises:
            ConfigError: `file_exists` or `socket_path`.
        """
        if self.path.exists():
            raise ConfigError(
                f"{self.path} exists already; nothing was added",
                code="file_exists",
                hint="choose another name, or move it away",
            )
        if self.socket is not None and not _fits(self.socket.resolve()):
            raise ConfigError(
                f"{self.socket.resolve()} is too long for a unix socket; nothing was added",
                code="socket_path",
                hint=f"at most {MAX_SOCKET_PATH} bytes",
            )

    def text(self, invitation: Invitation) -> str:
        """Return the file's content, with the token to join by. Without room for the default socket TCP remains."""
        socket = (self.socket or self.home / "agent.sock").resolve()
        state = (self.state_dir or self.home / "state").resolve()
        return _TEMPLATE.format(
            file=self.path.name,
            device=_quoted(self.device),
            url=_quoted(invitation.url),
            token=_quoted(invitation.token),
            pin=", and only where the root of trust is the fleet's own"
            if parse_token(invitation.token).root
            else "",
            listen=_quoted(self.listen),
            socket=f"socket = {_quoted(str(socket))}"
            if _fits(socket)
            else f'# socket = "/run/{self.device}.sock"   # the default path would be too long',
            state=_quoted(str(state)),
        )


def write_agent_file(file: AgentFile, invitation: Invitation) -> None:
    """Write the configuration, for its owner's eyes only; an existing file is left alone.

    Raises:
        ConfigError: `config_unwritable`; the device is added by then.
    """
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as output:
            output.write(file.text(invitation))
    except (OSError, UnicodeEncodeError) as exc:
        raise ConfigError(
            f"the device is added, but {file.path} cannot be written: {exc}",
            code="config_unwritable",
            hint="write it by hand; docs/runbook.md shows one",
        ) from exc
    if file.socket is None and not _fits(file.home / "agent.sock"):
        say(f"{file.device} has no unix socket: below {file.home} its path would be too long")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are among TOML's, but DEL is not escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
