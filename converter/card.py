"""The model card in a bundle: text for people, which devices store and do not read.

A card tells how the converted model was evaluated, so it is written after the bundle was. `add_card`
packs the same files again with the card beside them: what was evaluated is the model's own file, whose
digest the card can name, since it stays what it was. The manifest, and so the release, is another.
"""

from __future__ import annotations

import stat
from pathlib import Path

from wire.bundle import read_bundle
from wire.errors import PeerError
from wire.manifest import CARD, MANIFEST, MAX_CARD_BYTES

from .bundle import check_output, describe_files, write_bundle


def add_card(bundle: Path, card: str, output: Path) -> tuple[str, int]:
    """Write `bundle` with the card to `output`; return the manifest's digest and the size in bytes.

    All other files stay byte for byte what they were. The result is what `convert` writes when it is
    given the card; a card that is there is replaced. `output` may be `bundle`.

    Raises:
        BundleError: `bundle` cannot be read.
        PeerError: `request_invalid`, for what is no card.
        StorageError: `output_unwritable`.
    """
    payload = card.encode(errors="surrogatepass")
    _check(payload, "the model card")
    check_output(output, ())
    opened = read_bundle(bundle)
    files = {path: data for path, data in opened.files.items() if path != MANIFEST}
    files[CARD] = payload
    manifest = opened.manifest.model_copy(update={"files": describe_files(files)})
    return write_bundle(output, manifest, files)


def read_card(path: Path) -> bytes:
    """Return the card that an author gives.

    Raises:
        PeerError: `request_invalid`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PeerError(f"--card: {path} is no regular file", code="request_invalid")
        with path.open("rb") as file:
            payload = file.read(MAX_CARD_BYTES + 1)
    except OSError as exc:
        raise PeerError(
            f"--card: cannot read {path}: {exc.strerror or exc}", code="request_invalid"
        ) from exc
    _check(payload, f"--card: {path}")
    return payload


def _check(payload: bytes, what: str) -> None:
    if len(payload) > MAX_CARD_BYTES:
        raise PeerError(f"{what} is over {MAX_CARD_BYTES} bytes", code="request_invalid")
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise PeerError(f"{what} is no text in UTF-8", code="request_invalid") from exc
    # A terminal shows it: nothing in it may steer one.
    if not all(c.isprintable() or c in "\n\t" for c in text):
        raise PeerError(f"{what} holds control characters", code="request_invalid")
