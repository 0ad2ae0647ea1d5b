"""Where a broker is, and what a connection to it is secured with."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .errors import ConfigError

CLOCK_FLOOR_UNIX_S: Final = 1_767_225_600
"""2026-01-01, before this program was written: a clock that shows less is not set."""
NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which `ssl` does not name."""

DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A broker's URL in parts."""

    scheme: str
    host: str
    port: int
    path: str
    username: str | None
    password: str | None

    @property
    def is_encrypted(self) -> bool:
        """Whether the scheme asks for TLS."""
        return self.scheme in ("mqtts", "wss")

    @property
    def is_websocket(self) -> bool:
        """Whether MQTT travels inside WebSocket frames."""
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """Return the parts of `mqtt://`, `mqtts://`, `ws://` or `wss://` URLs.

    Raises:
        ConfigError: `broker_url`.
    """
    hint = "write it as mqtt://HOST:PORT (or mqtts, ws, wss)"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"broker url {url!r}: {exc}", code="broker_url", hint=hint) from exc
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ConfigError(f"{url!r} is not a broker url", code="broker_url", hint=hint)
    return BrokerAddress(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        path=parts.path or "/mqtt",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files (PEM) that a connection is secured with.

    Attributes:
        ca: The authority that the broker's certificate must be of; None for those of the system.
        certificate: What this side shows; None for nothing.
        key: Its private key; None when it is in the certificate's file.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context for a client, from the files as they are now.

        Raises:
            OSError: A file is missing or unusable; `ssl.SSLError` is one.
        """
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        self.relax(context)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    @staticmethod
    def relax(context: ssl.SSLContext) -> None:
        """Have a context look at no dates while the clock was never set.

        Every certificate is of the future then. Whose it is, is looked at always.
        """
        if time.time() < CLOCK_FLOOR_UNIX_S:
            context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker is, and what to show it."""

    url: str
    tls: TlsFiles
