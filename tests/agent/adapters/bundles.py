"""Bundles as the controller would publish them, made of arbitrary bytes."""

import json
from dataclasses import dataclass, field

from agent.core.events import BundleStaged
from agent.core.states import Assignment, BundleFacts, Ref
from wire.content import MAX_CHUNK_BYTES, encode_chunk
from wire.manifest import BASELINE, GOLDEN, MANIFEST, MODEL, PARITY, digest_of


@dataclass
class Bundle:
    """A bundle's bytes, cut into chunks."""

    manifest: bytes
    files: dict[str, bytes]
    index: bytes = b""
    chunks: dict[str, bytes] = field(default_factory=dict)
    name: str = "digits"
    version: str = "1.0.0"

    @property
    def assignment(self) -> Assignment:
        return Assignment(
            self.name, Ref(self.version, digest_of(self.manifest), digest_of(self.index))
        )

    @property
    def staged(self) -> BundleStaged:
        """What the fetcher says when all of it is here."""
        model = digest_of(self.files[MODEL])
        return BundleStaged(digest_of(self.manifest), BundleFacts(model))

    def payloads(self) -> dict[str, bytes]:
        """Chunk digest to what is published."""
        return {digest: encode_chunk(plain) for digest, plain in self.chunks.items()}


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def make_bundle(
    model: bytes = b"model" * 40_000, *, size: int = 30_000, levels: int = 1, **manifest
):
    files = {MODEL: model, GOLDEN: b"golden", BASELINE: b"{}", PARITY: b"{} "}
    tensor = {"name": "X", "datatype": "FP32", "shape": [-1, 4]}
    body = {
        "v": 1,
        "name": "digits",
        "version": "1.0.0",
        "files": [
            {"path": p, "sha256": digest_of(b), "bytes": len(b), "media_type": "x/y"}
            for p, b in files.items()
        ],
        "inputs": [tensor],
        "outputs": [tensor],
        "opset": {"": 17},
        "ir_version": 8,
        "ops": [],
        "minimum_runtime": "1.0",
    } | manifest
    bundle = Bundle(json.dumps(body).encode(), files)
    pairs = {}
    for path, data in {MANIFEST: bundle.manifest, **files}.items():
        pieces = cut(data, size)
        bundle.chunks |= {digest_of(piece): piece for piece in pieces}
        pairs[path] = [[digest_of(piece), len(piece)] for piece in pieces]
    bundle.index = json.dumps({"v": 1, "files": pairs}).encode()
    if levels == 2:
        pieces = cut(bundle.index, 200)
        bundle.chunks |= {digest_of(piece): piece for piece in pieces}
        pairs = [[digest_of(piece), len(piece)] for piece in pieces]
        bundle.index = json.dumps({"v": 1, "index": pairs}).encode()
    assert len(bundle.index) <= MAX_CHUNK_BYTES
    bundle.chunks[digest_of(bundle.index)] = bundle.index
    return bundle
