"""Bytes that cross for a second version of a model with only its last layer changed."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard
from fleets import Fleet
from load import Asker, request_bytes
from models import Models
from programs import HOST
from result import Line, Outcome
from tap import Tap

from fleet.chunker import cut_bundle

WIDTH, LAYERS = 1024, 3
DEVICE = "cam-01"
LEVEL = 19
FIRST, SECOND = "1.0.0", "2.0.0"


@dataclass(frozen=True, slots=True)
class Received:
    """What one real agent was sent for one release.

    Attributes:
        chunks: Payload length of each chunk, by digest.
        chunk_bytes: Their payloads together, repetitions included.
        down_bytes, up_bytes: All bytes of the MQTT streams.
    """

    chunks: dict[str, int]
    chunk_bytes: int
    down_bytes: int
    up_bytes: int


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Roll out both versions to one real agent, and count what its broker sent it."""
    first = models.network(FIRST, width=WIDTH, layers=LAYERS, body=1, head=1)
    second = models.network(SECOND, width=WIDTH, layers=LAYERS, body=1, head=2)
    name = first.name.removesuffix(f"-{FIRST}.bundle")
    received = []
    with Fleet(directory, is_open=True) as fleet:  # MQTT's frames are read on the way
        tap = Tap(fleet.broker_port)
        fleet.add_devices([DEVICE])
        _lead_through(fleet.configuration(DEVICE), tap.port)
        fleet.start_agent(DEVICE)
        fleet.wait_until_online([DEVICE])
        request = request_bytes(f"/v2/models/{name}/infer", models.digits_body())
        asker = Asker(fleet.ports[DEVICE], request)
        for bundle, version in ((first, FIRST), (second, SECOND)):
            tap.reset()
            fleet.push(bundle)
            fleet.start_rollout(f"{name}:{version}", match="group=fleet")
            fleet.wait_until_confirmed([DEVICE], version, keep_busy=asker.ask)
            received.append(
                Received(
                    tap.chunk_bytes,
                    tap.payload_bytes["chunk"],
                    tap.wire_bytes["down"],
                    tap.wire_bytes["up"],
                )
            )
        asker.close()
    tap.close()
    return _outcome(first, second, *received)


def _lead_through(configuration: Path, tap_port: int) -> None:
    with configuration.open("a") as file:
        file.write(f'\n[broker]\nurl = "mqtt://{HOST}:{tap_port}"\n')


def _outcome(first: Path, second: Path, whole: Received, update: Received) -> Outcome:
    old, new = _files(first), _files(second)
    old_model, new_model = old["model.onnx"], new["model.onnx"]
    changed = sum(a != b for a, b in zip(old_model, new_model, strict=True))
    ours = [update.chunk_bytes / 1e3]
    patch = patch_bytes(first.read_bytes(), second.read_bytes())
    packed = len(zstandard.ZstdCompressor(level=LEVEL).compress(first.read_bytes()))
    return Outcome(
        title="Bytes on the wire for a new last layer",
        how=(
            f"A network of {len(new_model) / 1e6:.1f} MB with random weights; the second version "
            "differs in its last layer alone. Ours is the payload of every chunk that a real agent "
            "received, counted between it and the broker. zstd's figure is the equivalent of "
            f"`zstd --patch-from` through the Python binding: level {LEVEL}, the old bundle as "
            "prefix, a window that covers both. It needs one patch for each pair of versions and "
            "a server that knows what each device has; chunks need neither."
        ),
        why=(
            "A patch costs what differs; chunks cost the chunks in which something differs. The "
            "golden rows travel whole, since their inputs and their new outputs share one chunk, "
            "and so does the list of all chunks."
        ),
        lines=[
            Line("second version", "kB", ours, "the model in full", [len(new_model) / 1e3]),
            Line("second version", "kB", ours, "zstd patch of the bundle", [patch / 1e3]),
            Line(
                "first version",
                "kB",
                [whole.chunk_bytes / 1e3],
                "bundle compressed by zstd",
                [packed / 1e3],
            ),
        ],
        notes=[
            (
                f"The second version came in {len(update.chunks)} chunks: "
                f"{_by_file(new, update.chunks)}. {changed:,} bytes of `model.onnx` differ."
            ),
            f"A zstd patch of `model.onnx` alone has {patch_bytes(old_model, new_model):,} bytes.",
            (
                f"With MQTT's own bytes, commands, reports and telemetry, the update took "
                f"{update.down_bytes:,} bytes down and {update.up_bytes:,} up."
            ),
        ],
    )


def _by_file(files: Mapping[str, bytes], received: Mapping[str, int]) -> str:
    """Return how many of the received bytes belong to which file of the bundle."""
    owner = {
        digest: path for path, chunks in cut_bundle(files).files.items() for digest, _ in chunks
    }
    total: Counter[str] = Counter()
    for digest, length in received.items():
        total[owner.get(digest, "the index")] += length
    return ", ".join(f"{length / 1e3:.1f} kB of {path}" for path, length in total.most_common())


def patch_bytes(old: bytes, new: bytes) -> int:
    """Return the length of the zstd patch that makes `new` of `old`, having applied it once."""
    prefix = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window_log = (len(old) + len(new)).bit_length()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=window_log, enable_ldm=True
    )
    compressor = zstandard.ZstdCompressor(dict_data=prefix, compression_params=parameters)
    patch = compressor.compress(new)
    opener = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=1 << window_log)
    if opener.decompress(patch) != new:
        raise RuntimeError("the zstd patch does not make the new bundle")
    return len(patch)


def _files(bundle: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(bundle) as tar:
        for member in tar.getmembers():
            if (stream := tar.extractfile(member)) is not None:
                found[member.name.rpartition("/")[2]] = stream.read()
    return found
