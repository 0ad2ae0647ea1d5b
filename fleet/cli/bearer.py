"""Which token a command sends: `--token-file`, then FLEET_TOKEN, then the fleet's own file."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fleet.alerts.settings import LOOPBACK
from fleet.settings import MAX_TOKEN_CHARS, TOKEN_FILE_NAME, FleetSettings, find_settings
from wire.errors import ConfigError

FILE_VARIABLE: Final = "FLEET_TOKEN_FILE"
CA_VARIABLE: Final = "FLEET_CA"
TOKEN_VARIABLE: Final = "FLEET_TOKEN"  # noqa: S105 - its name, not one


def find_token(url: str, fleet: Path | None) -> str:
    """Return the token for the API at `url`, or nothing where there is none.

    `admin.token` is sent to the API of its own fleet.toml only, never to another address that a
    variable or an option names.

    Raises:
        ConfigError: `token_unreadable`; `token_in_clear` for an address that it could be heard on the way to.
    """
    token = _token(url, fleet)
    parts = urlsplit(url)
    if token and parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise ConfigError(
            f"the token is not sent to {url}: anybody on the way could read it",
            code="token_in_clear",
            hint="write https:// before the address; FLEET_CA names the certificate to check by",
        )
    return token


def _token(url: str, fleet: Path | None) -> str:
    if given := os.environ.get(FILE_VARIABLE):
        return _read(Path(given))
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    if (settings := _settings_of(url, fleet)) is None:
        return ""
    path = settings.root / TOKEN_FILE_NAME
    return _read(path) if path.exists() else ""


def trusted(url: str, fleet: Path | None) -> ssl.SSLContext | bool:
    """Return what the certificate of the API at `url` is checked by.

    That is FLEET_CA, then `[api] ca` of its own fleet.toml, then what this machine trusts.

    Raises:
        ConfigError: `ca_unreadable`.
    """
    if not url.startswith("https:"):
        return True
    settings = _settings_of(url, fleet)
    own = settings.root / settings.api.ca if settings and settings.api.ca else None
    path = Path(os.environ[CA_VARIABLE]) if os.environ.get(CA_VARIABLE) else own
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as exc:
        raise ConfigError(
            f"cannot read certificates from {path}: {exc}",
            code="ca_unreadable",
            hint="give a PEM file in FLEET_CA, or as [api] ca in fleet.toml",
        ) from exc


def _settings_of(url: str, fleet: Path | None) -> FleetSettings | None:
    try:
        settings = find_settings(fleet or Path.cwd())
    except (ConfigError, FileNotFoundError):
        return None
    return settings if settings is not None and settings.api_url == url else None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(MAX_TOKEN_CHARS).strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"cannot read a token from {path}: {exc}",
            code="token_unreadable",
            hint="give a file of yours with --token-file, or the token itself in FLEET_TOKEN",
        ) from exc
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"there is no token in {path}", code="token_unreadable")
    return token
