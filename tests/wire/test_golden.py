"""Payloads frozen when their schema was released. They parse for ever: never change a file, add one."""

import json
from pathlib import Path

import pytest

from wire import codec
from wire.content import MAX_INDEX_BYTES, Index
from wire.histogram import Baseline
from wire.manifest import MAX_MANIFEST_BYTES, Manifest
from wire.messages import InferenceTelemetry
from wire.schema import Schema

GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "v1"

KINDS = {channel.replace("/", "-"): kind for channel, kind in codec.PAYLOADS.items()} | {
    "manifest": Manifest,
    "index": Index,
    "index-of-pieces": Index,
    "telemetry-inference-bins": InferenceTelemetry,
    "baseline": Baseline,
    "schema": Schema,
}


def is_within(old, new):
    """Whether everything said in `old` is said in `new`, which may say more."""
    match old, new:
        case dict(), dict():
            return all(key in new and is_within(value, new[key]) for key, value in old.items())
        case list(), list():
            return len(old) == len(new) and all(map(is_within, old, new))
        case _:
            return old == new and type(old) is type(new)


@pytest.mark.parametrize("name", KINDS)
def test_a_frozen_payload_parses_to_what_it_says(name):
    payload = (GOLDEN / f"{name}.json").read_bytes()
    caps = {"manifest": MAX_MANIFEST_BYTES, "index": MAX_INDEX_BYTES}
    message = codec.decode(KINDS[name], payload, max_bytes=caps.get(name, codec.MAX_MESSAGE_BYTES))
    assert is_within(json.loads(payload), json.loads(codec.encode(message)))


def test_no_frozen_payload_is_left_out():
    assert {path.stem for path in GOLDEN.iterdir()} == set(KINDS)
