"""Which token a command sends: `--token-file`, then FLEET_TOKEN, then the fleet's own file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fleet.settings import MAX_TOKEN_CHARS, TOKEN_FILE_NAME, find_settings
from wire.errors import ConfigError

FILE_VARIABLE: Final = "FLEET_TOKEN_FILE"
TOKEN_VARIABLE: Final = "FLEET_TOKEN"  # noqa: S105 - its name, not one


def find_token(url: str, fleet: Path | None) -> str:
    """Return the token for the API at `url`, or nothing where there is none.

    `admin.token` is sent to the API of its own fleet.toml only, never to another address that a
    variable or an option names.

    Raises:
        ConfigError: `token_unreadable`.
    """
    if given := os.environ.get(FILE_VARIABLE):
        return _read(Path(given))
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return token
    try:
        settings = find_settings(fleet or Path.cwd())
    except (ConfigError, FileNotFoundError):
        return ""
    if settings is None or settings.api_url != url:
        return ""
    path = settings.root / TOKEN_FILE_NAME
    return _read(path) if path.exists() else ""


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
