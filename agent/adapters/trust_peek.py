"""What the files of signed metadata say, for those who ask this device: read, and verified by nobody.

The agent that runs has verified them before it put them there, and does so again before it believes them.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from agent.core.trust import TOP_LEVEL, ModelFacts, RoleFacts, SignedRelease, TrustView
from wire.trust import FLOOR_FIELD, MANIFEST_FILE, MODEL_ROLE_PREFIX, NUMBER_FIELD


def peek(directory: Path) -> TrustView | None:
    """Return what a directory of trusted metadata says; None when it is not whole."""
    try:
        roles = {name: _facts(_signed(directory / f"{name}.json")) for name in TOP_LEVEL}
        models = {
            path.stem.removeprefix(MODEL_ROLE_PREFIX): _model(_signed(path))
            for path in directory.glob(f"{MODEL_ROLE_PREFIX}*.json")
        }
    except Exception:  # noqa: BLE001 - what a disk may have changed raises whatever it provokes
        return None
    return TrustView(roles, models)


def _signed(path: Path) -> dict[str, object]:
    signed = json.loads(path.read_bytes())["signed"]
    if not isinstance(signed, dict):
        raise TypeError(f"{path} has no signed part")
    return signed


def _facts(signed: dict[str, object]) -> RoleFacts:
    expires = datetime.fromisoformat(str(signed["expires"]))
    return RoleFacts(int(str(signed["version"])), int(expires.timestamp() * 1000))


def _model(signed: dict[str, object]) -> ModelFacts:
    targets = signed["targets"]
    if not isinstance(targets, dict):
        raise TypeError("targets are no object")
    releases = {
        path.split("/")[1]: SignedRelease(
            target["hashes"]["sha256"], target["length"], target["custom"][NUMBER_FIELD]
        )
        for path, target in targets.items()
        if path.endswith(f"/{MANIFEST_FILE}")
    }
    return ModelFacts(_facts(signed), int(str(signed.get(FLOOR_FIELD, 0))), releases)
