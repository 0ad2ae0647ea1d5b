import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.chunker import MIN_BYTES, cut, cut_bundle
from wire.content import MAX_CHUNK_BYTES, ChunkRef, parse_index
from wire.manifest import digest_of


def noise(size, seed=7):
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        noise(MIN_BYTES),
        noise(3_000_000),
        bytes(1_000_000),
        b"ab" * 400_000,
        noise(9 * 1024 * 1024),
    ],
    ids=["empty", "one", "minimum", "noise", "zeros", "pattern", "several-blocks"],
)
def test_pieces_make_the_whole_within_the_limits(data):
    pieces = cut(data)
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MAX_CHUNK_BYTES for piece in pieces)
    assert all(len(piece) >= MIN_BYTES for piece in pieces[:-1])


def test_the_average_is_what_the_module_says():
    pieces = cut(noise(20_000_000))
    assert 24 * 1024 < 20_000_000 / len(pieces) < 38 * 1024


@settings(max_examples=30)
@given(st.integers(0, 1_999_999), st.binary(min_size=1, max_size=100))
def test_an_insertion_changes_the_chunks_around_it_only(position, inserted):
    data = noise(2_000_000)
    before = set(cut(data))
    after = cut(data[:position] + inserted + data[position:])
    fresh = sum(len(piece) for piece in after if piece not in before)
    assert fresh <= 4 * MAX_CHUNK_BYTES


def test_a_new_last_layer_costs_the_last_layer():
    body, old, new = noise(9_000_000), noise(40_000, 1), noise(40_000, 2)
    before = set(cut(body + old))
    fresh = sum(len(piece) for piece in cut(body + new) if piece not in before)
    assert fresh <= 40_000 + MAX_CHUNK_BYTES


def test_a_bundle_is_found_again_from_its_index():
    files = {"manifest.json": b"{}", "model.onnx": noise(300_000), "empty": b""}
    bundle = cut_bundle(files)
    assert all(digest_of(plain) == digest for digest, plain in bundle.chunks.items())
    index = parse_index(bundle.chunks[bundle.index_digest])
    for path, content in files.items():
        chunks = index.chunks_of(path)
        assert b"".join(bundle.chunks[chunk.digest] for chunk in chunks) == content
        assert [ChunkRef(*pair) for pair in bundle.files[path]] == list(chunks)
    assert cut_bundle(dict(reversed(files.items()))).index_digest == bundle.index_digest


def test_a_long_index_is_cut_itself():
    bundle = cut_bundle({"model.onnx": noise(35_000_000)})
    top = parse_index(bundle.chunks[bundle.index_digest])
    assert top.files is None
    whole = b"".join(bundle.chunks[digest] for digest, _ in top.index)
    assert json.loads(whole)["files"]["model.onnx"]
    assert all(len(plain) <= MAX_CHUNK_BYTES for plain in bundle.chunks.values())
