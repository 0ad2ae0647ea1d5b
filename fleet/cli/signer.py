"""What all commands that sign have in common: where keys are, what opens them, the way there."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from tuf.api.metadata import Signed

from fleet.api.schemas import TrustAccepted, TrustFiles
from fleet.settings import find_settings
from fleet.trust.documents import SNAPSHOT, TIMESTAMP, Document, read_file
from fleet.trust.draft import Draft
from fleet.trust.keys import OFFLINE_DIR, PASSPHRASE_FILE, KeyFolder
from fleet.trust.ledger import Ledger, proposal_text
from fleet.trust.session import Done, Session
from wire.errors import ConfigError

from .client import Client
from .console import say, show_json

Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys", help="Folder of the offline keys; else FLEET_KEYS, else offline/ of the fleet."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File with the keys' passphrase; else FLEET_PASSPHRASE, else the file `passphrase`"
        " beside the keys, else a question.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Where to write the change when others must sign it too."),
]
PIN_VARIABLE: Final = "FLEET_PIN"


class HttpCarrier:
    """The controller's API as `fleet.trust.session.Carrier`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def fetch(self) -> list[Document[Signed]]:
        """See the protocol."""
        files = self._client.get("/v1/trust/metadata", TrustFiles).root
        documents = [read_file(name, text) for name, text in files.items()]
        return [d for d in documents if d.role not in (SNAPSHOT, TIMESTAMP)]

    def hand_in(self, documents: Sequence[Document[Signed]], *, may_skip: bool) -> None:
        """See the protocol."""
        files = TrustFiles({d.file_name: d.body.decode() for d in documents})
        path = "/v1/trust/restoration" if may_skip else "/v1/trust/metadata"
        self._client.post(path, files, TrustAccepted)


def open_session(client: Client, keys: Path | None, passphrase_file: Path | None) -> Session:
    """Return a session, with what an interrupted command left behind handed in.

    Raises:
        ModelfleetError: As `Session`.
    """
    folder = key_folder(keys, passphrase_file)
    ledger = Ledger(home_of(folder.path))
    session = Session(HttpCarrier(client), ledger, folder, now_unix_ms())
    for line in session.finish_pending():
        say(f"handed in what an earlier command had signed: {line}")
    return session


def key_folder(keys: Path | None, passphrase_file: Path | None) -> KeyFolder:
    """Return the folder of offline keys that a command is to use.

    Raises:
        ConfigError: `keys_missing`: none is named, and there is no fleet here.
    """
    path = keys or (Path(given) if (given := os.environ.get("FLEET_KEYS")) else None)
    if path is None:
        settings = find_settings(Path.cwd())
        if settings is None:
            raise ConfigError(
                "no folder of keys is named, and there is no fleet here",
                code="keys_missing",
                hint="give --keys DIR or FLEET_KEYS, or `cd` into the fleet's directory",
            )
        path = settings.root / OFFLINE_DIR
    return KeyFolder(path, passphrase_of(path, passphrase_file), _pin)


def home_of(keys: Path) -> Path:
    """Return where `root.json` and the ledger are: in the fleet's directory, else beside the keys."""
    settings = find_settings(Path.cwd())
    return settings.root if settings is not None else keys


def passphrase_of(keys: Path, file: Path | None) -> Callable[[str], str]:
    """Return what finds the passphrase of a folder of keys, once it is needed."""

    def find(what: str) -> str:
        given = given_passphrase(file)
        if given is None:
            beside = keys / PASSPHRASE_FILE
            given = read_passphrase(beside) if beside.exists() else None
        return given if given is not None else _ask(what, "passphrase_missing")

    return find


def given_passphrase(file: Path | None, *, must_ask: bool = False) -> str | None:
    """Return the passphrase that a command was given, None without any.

    Raises:
        ConfigError: `passphrase_missing`: the file cannot be read or is empty.
    """
    if file is not None:
        return read_passphrase(file)
    if secret := os.environ.get("FLEET_PASSPHRASE"):
        return secret
    return _ask("new passphrase for the offline keys", "passphrase_missing") if must_ask else None


def read_passphrase(path: Path) -> str:
    """Return the first line of a file.

    Raises:
        ConfigError: `passphrase_missing`.
    """
    try:
        secret = path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}", code="passphrase_missing") from exc
    if not secret:
        raise ConfigError(f"{path} is empty", code="passphrase_missing")
    return secret


def finish(session: Session, draft: Draft, output: Path | None, default: str) -> Done:
    """Sign a draft; hand it in, or write it to a file for others when that is not enough.

    Raises:
        ModelfleetError: As `Session.complete`; `key_not_at_hand` where nothing could be signed and
            no file was asked for.
    """
    if output is None:
        session.require_keys(draft)
    done = session.complete(draft)
    for line in done.changes:
        say(f"  {line}")
    if not done.is_complete:
        path = output or Path(f"{default}.sign")
        write_proposal(path, done)
    return done


def tell(done: Done, *, as_json: bool, text: str = "signed and handed in") -> None:
    """Say how it ended: as JSON, or in one line."""
    if as_json:
        lacking = {role: count for role, count, _ in done.missing}
        show_json(
            {"changes": list(done.changes), "is_complete": done.is_complete, "missing": lacking}
        )
    else:
        typer.echo(text if done.is_complete else "waits for more signatures")


def write_proposal(path: Path, done: Done) -> None:
    """Write a file that is passed around, and say what it lacks.

    Raises:
        ConfigError: `config_unwritable`.
    """
    try:
        path.write_bytes(proposal_text(done.documents))
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}", code="config_unwritable") from exc
    say(f"not enough signatures yet; pass {path} around: `fleet sign {path}`")
    for role, count, keyids in done.missing:
        names = ", ".join(sorted(keyid[:8] for keyid in keyids))
        say(f"  {role} lacks {count} of: {names}")


def now_unix_ms() -> int:
    """Return this machine's time."""
    return time.time_ns() // 1_000_000


def _pin(what: str) -> str:
    return os.environ.get(PIN_VARIABLE) or _ask(f"{what} of the token", "pin_missing")


def _ask(what: str, code: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"nobody can be asked for the {what}",
            code=code,
            hint="give --passphrase-file or FLEET_PASSPHRASE; for a token FLEET_PIN",
        )
    secret = getpass.getpass(f"{what}: ")
    if not secret:
        raise ConfigError("an empty one is none", code=code)
    # What opens nothing yet cannot be tried.
    if what.startswith("new ") and getpass.getpass("again: ") != secret:
        raise ConfigError("the two are not the same", code=code)
    return secret
