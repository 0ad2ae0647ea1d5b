"""A drill: rotate every role on a scratch copy with the keys at hand, and see what comes of it."""

from __future__ import annotations

from typing import NamedTuple

from securesystemslib.signer import CryptoSigner

from wire.errors import ModelfleetError

from .draft import Draft
from .keys import KeyFolder
from .repository import Repository, succeed


class Drilled(NamedTuple):
    """How the rotation of one role went; `detail` says what is lacking."""

    role: str
    is_good: bool
    detail: str


def drill_all(base: Repository, keys: KeyFolder, now_unix_ms: int) -> list[Drilled]:
    """Rotate each role by itself; nothing leaves this process, and nothing is written."""
    names = [*base.root.signed.roles, *base.delegated()]
    return [_drill(base, keys, name, now_unix_ms) for name in names]


def _drill(base: Repository, keys: KeyFolder, role: str, now_unix_ms: int) -> Drilled:
    present = base.keys(role)
    old = min(present, key=lambda keyid: keyid not in _here(keys))
    fresh = CryptoSigner.generate_ed25519()
    wanted = [fresh.public_key if keyid == old else key for keyid, key in present.items()]
    draft = Draft(base, now_unix_ms)
    try:
        draft.set_keys(role, wanted, base.role(role).threshold)
        draft.sign([*keys.signers(draft.keyids()), fresh])
        if missing := draft.missing():
            words = [
                f"{name} lacks {count} of {', '.join(sorted(k[:8] for k in keyids))}"
                for name, count, keyids in missing
            ]
            return Drilled(role, is_good=False, detail="; ".join(words))
        succeed(base, draft.documents(), now_unix_ms)
    except ModelfleetError as exc:
        return Drilled(role, is_good=False, detail=str(exc))
    return Drilled(role, is_good=True, detail=f"signs {', '.join(draft.roles)}")


def _here(keys: KeyFolder) -> set[str]:
    return {keyid for keyid, file in keys.files().items() if file.uri is not None}
