"""The sockets that applications connect to: held by the supervisor, lent to every runtime."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from agent.ports import RuntimeSettings
from wire.errors import ConfigError

BACKLOG = 1024
TAKEN_WAIT_S = 2.0
"""A runtime that was just starting when its supervisor was killed notices within a second."""
TAKEN_POLL_S = 0.05
SOCKET_MODE = 0o660
"""Owner and group: applications that may ask are put into the agent's group."""


def open_listeners(settings: RuntimeSettings) -> list[socket.socket]:
    """Return the listening sockets, those that systemd passed first.

    Raises:
        ConfigError: `port_taken`, `listen_invalid` or `socket_path`.
    """
    sockets: list[socket.socket] = []
    if "http" in settings.inherited:
        sockets.append(socket.socket(fileno=settings.inherited["http"]))
    elif settings.listen is not None:
        sockets.append(_open_tcp(*settings.listen))
    if "unix" in settings.inherited:
        sockets.append(socket.socket(fileno=settings.inherited["unix"]))
    elif settings.socket is not None:
        sockets.append(_open_unix(settings.socket))
    for sock in sockets:
        sock.setblocking(False)
    return sockets


def _open_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _patiently(lambda: sock.bind((host, port)))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is taken by another program",
                code="port_taken",
                hint="end that program, or choose another address with [serve] listen",
            ) from exc
        raise ConfigError(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}",
            code="listen_invalid",
            hint="correct [serve] listen in the configuration",
        ) from exc
    return sock


def _patiently(claim: Callable[[], None]) -> None:
    """Claim an address; wait for one that a killed agent's runtime is about to leave.

    Raises:
        OSError: It stays taken, or cannot be had at all.
    """
    deadline_s = time.monotonic() + TAKEN_WAIT_S
    while True:
        try:
            claim()
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
                raise
            time.sleep(TAKEN_POLL_S)
        else:
            return


def _open_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _patiently(lambda: _remove_stale(path))
        previous = os.umask(0o777 & ~SOCKET_MODE)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"cannot listen on {path}: {exc.strerror or exc}",
            code="socket_path",
            hint="correct [serve] socket in the configuration (at most 107 bytes long)",
        ) from exc
    return sock


def _remove_stale(path: Path) -> None:
    """Delete the socket file of a program that has ended; refuse that of a living one."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            return
    raise OSError(errno.EADDRINUSE, "another program listens there")
