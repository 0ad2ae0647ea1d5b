"""Chunks prove themselves; an index needs no trust, and cannot do harm either."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wire import content
from wire.codec import MAX_MESSAGE_BYTES
from wire.content import MAX_CHUNK_BYTES, ChunkRef, decode_chunk, encode_chunk, parse_index
from wire.errors import PeerError
from wire.manifest import MAX_FILE_BYTES, MAX_FILES

MAGIC = b"\x28\xb5\x2f\xfd"
A, B = "a" * 64, "b" * 64


def sha(data):
    return hashlib.sha256(data).hexdigest()


def noise(size):
    return np.random.default_rng(size).bytes(size)


def refusal(digest, payload):
    with pytest.raises(PeerError) as refused:
        decode_chunk(digest, payload)
    return refused.value.code


def block(kind, size, body, *, is_last):
    return (is_last | kind << 1 | size << 3).to_bytes(3, "little") + body


def frame(*blocks, promised=None):
    """Return a zstd frame with a window of 128 KiB; `promised` is the size that its header names."""
    if promised is None:
        return MAGIC + b"\x00\x38" + b"".join(blocks)
    return MAGIC + b"\xc0\x38" + promised.to_bytes(8, "little") + b"".join(blocks)


def raw(data, *, is_last=True):
    return block(0, len(data), data, is_last=is_last)


ZEROS = block(1, 128 * 1024, b"\x00", is_last=False)  # 128 KiB out of four bytes


def test_the_frames_built_here_are_what_zstd_reads():
    for payload in (frame(raw(b"abc")), frame(raw(b"abc"), promised=3)):
        assert decode_chunk(sha(b"abc"), payload) == b"abc"


@given(st.binary(max_size=5000) | st.integers(0, MAX_CHUNK_BYTES).map(noise))
def test_a_chunk_survives_the_wire(plain):
    payload = encode_chunk(plain)
    assert len(payload) <= MAX_MESSAGE_BYTES
    assert decode_chunk(sha(plain), payload) == plain


@pytest.mark.parametrize("plain", [b"", bytes(MAX_CHUNK_BYTES), noise(MAX_CHUNK_BYTES)])
def test_a_chunk_of_the_smallest_and_the_largest_size_survives_the_wire(plain):
    assert decode_chunk(sha(plain), encode_chunk(plain)) == plain


def test_a_chunk_over_the_cap_is_neither_made_nor_taken():
    plain = bytes(MAX_CHUNK_BYTES + 1)
    with pytest.raises(PeerError) as refused:
        encode_chunk(plain)
    assert refused.value.code == "chunk_too_large"
    assert refusal(sha(plain), zstandard.compress(plain)) == "chunk_too_large"


def test_a_payload_over_the_cap_is_not_even_looked_at():
    padded = encode_chunk(b"abc").ljust(MAX_MESSAGE_BYTES, b"\x00")
    assert decode_chunk(sha(b"abc"), padded) == b"abc"
    assert refusal(sha(b"abc"), padded + b"\x00") == "chunk_too_large"


@pytest.mark.parametrize("promised", [None, 0, 3, MAX_CHUNK_BYTES, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_bomb_is_stopped_at_the_cap_whatever_its_header_promises(promised):
    blocks = [ZEROS] * ((MAX_MESSAGE_BYTES - 30) // len(ZEROS))
    payload = frame(*blocks, raw(b""), promised=promised)  # two gigabytes of zeros
    assert len(payload) <= MAX_MESSAGE_BYTES
    tracemalloc.start()
    code = refusal(sha(b""), payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code in {"chunk_too_large", "chunk_invalid"}
    assert peak < 1024 * 1024


@pytest.mark.parametrize("promised", [0, 2, 4, 2**31, 2**63 - 1, 2**64 - 1])
def test_a_header_that_promises_another_size_is_no_way_round(promised):
    assert refusal(sha(b"abcd"), frame(raw(b"abc"), promised=promised)) in {
        "chunk_invalid",
        "digest_mismatch",
    }


def test_a_frame_that_wants_a_large_window_is_refused():
    payload = MAGIC + b"\x00\x88" + raw(b"abc")
    assert zstandard.get_frame_parameters(payload).window_size == 2**27
    assert refusal(sha(b"abc"), payload) == "chunk_invalid"


def test_only_the_first_frame_is_read():
    one, two = encode_chunk(b"one"), encode_chunk(b"two")
    assert decode_chunk(sha(b"one"), one + two) == b"one"
    assert refusal(sha(b"onetwo"), one + two) == "digest_mismatch"
    skippable = b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx"
    assert refusal(sha(b"onetwo"), skippable + one + two) == "digest_mismatch"


def test_a_truncated_chunk_is_refused_wherever_it_is_cut():
    plain = noise(400) + bytes(400)
    payload = encode_chunk(plain)
    for end in range(len(payload)):
        assert refusal(sha(plain), payload[:end]) in {"chunk_invalid", "digest_mismatch"}


@pytest.mark.parametrize("payload", [b"x", b"plain text", MAGIC, b"\x1f\x8b\x08\x00", noise(500)])
def test_what_is_no_zstd_is_refused(payload):
    assert refusal(sha(payload), payload) in {"chunk_invalid", "digest_mismatch"}


@pytest.mark.parametrize("digest", [A, "", sha(b"abc").upper(), sha(b"abc")[:-1], sha(b"abc ")])
def test_a_chunk_under_another_name_is_refused(digest):
    assert refusal(digest, encode_chunk(b"abc")) == "digest_mismatch"


@given(st.data())
def test_a_damaged_chunk_is_refused_or_whole(data):
    plain = noise(300) + bytes(100)
    payload = bytearray(encode_chunk(plain))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_chunk(sha(plain), bytes(payload)) == plain
    except PeerError as exc:
        assert exc.code  # noqa: PT017 - either end is fine, nothing else is


def index_refusal(value):
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(PeerError) as refused:
        parse_index(payload)
    assert refused.value.code == "index_invalid"
    assert len(str(refused.value)) < 400
    return str(refused.value)


def test_an_index_names_the_chunks_of_files_in_order():
    payload = {"v": 1, "new": [], "files": {"b.bin": [[B, 9], [A, 7], [B, 9]], "empty": []}}
    index = parse_index(json.dumps(payload).encode())
    assert index.chunks_of("b.bin") == (ChunkRef(B, 9), ChunkRef(A, 7), ChunkRef(B, 9))
    assert index.chunks_of("empty") == index.chunks_of("unknown") == ()


def test_an_index_of_two_levels_leads_to_the_one_that_names_the_files():
    whole = json.dumps({"v": 1, "files": {"b.bin": [[A, 7], [B, 9]]}}).encode()
    pieces = [whole[:40], whole[40:]]
    top = {"v": 1, "index": [[sha(piece), len(piece)] for piece in pieces]}
    upper = parse_index(json.dumps(top).encode())
    assert upper.files is None
    assert [length for _, length in upper.index] == [40, len(whole) - 40]
    chunks = {sha(piece): encode_chunk(piece) for piece in pieces}
    lower = parse_index(b"".join(decode_chunk(name, chunks[name]) for name, _ in upper.index))
    assert lower.chunks_of("b.bin") == (ChunkRef(A, 7), ChunkRef(B, 9))
    assert upper.chunks_of("b.bin") == ()


@pytest.mark.parametrize(
    "pair",
    [
        [A],
        [A, 1, 2],
        [],
        [1, A],
        [A, 0],
        [A, -1],
        [A, MAX_CHUNK_BYTES + 1],
        [A, 10**300],
        [A, "1"],
        [A, 1.0],
        [A, True],
        [A, None],
        [A.upper(), 1],
        [A[:-1], 1],
        [A + "\n", 1],
        ["../" + A[3:], 1],
        {"0": A, "1": 1},
        A,
        None,
    ],
)
def test_what_names_no_chunk_is_refused_at_both_levels(pair):
    index_refusal({"v": 1, "files": {"a": [[A, 1], pair]}})
    index_refusal({"v": 1, "index": [[A, 1], pair]})


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../a", "/etc/passwd", "a/b", "A", ".a", "-a", "a\n", "a\x00", "ä", "a" * 65],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    index_refusal({"v": 1, "files": {path: [[A, 1]]}})


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"v": 1},
        {"v": 1, "files": None, "index": None},
        {"v": 1, "files": {}, "index": []},
        {"v": 2, "files": {}},
        {"v": "1", "files": {}},
        {"v": 1, "files": []},
        {"v": 1, "files": {"a": {}}},
        {"v": 1, "files": {"a": None}},
        {"v": 1, "index": {}},
        {"v": 1, "index": [[A, MAX_CHUNK_BYTES]] * 300},  # the pieces are over the cap
        [],
        "files",
        None,
        b"",
        b"\xff",
        b'{"v":1,"files":{},"files":{}}',
        b'{"v":1,"files":{"a":[],"a":[]}}',
        b'{"v":1,"files":{},"x":NaN}',
        b"[" * 100_000,
        b'{"v":1,"files":' * 100_000,
    ],
)
def test_what_is_no_index_is_refused(value):
    index_refusal(value)


def test_an_index_has_as_many_files_as_a_bundle_and_no_more():
    names = [f"f{n}" for n in range(MAX_FILES + 1)]  # the manifest beside what it lists
    files = {name: [[A, 1]] for name in names}
    assert parse_index(json.dumps({"v": 1, "files": files}).encode()).chunks_of(names[-1])
    index_refusal({"v": 1, "files": files | {"more": []}})


def test_an_index_over_the_cap_is_refused():
    payload = b'{"v":1,"files":{}}'
    assert parse_index(payload.ljust(content.MAX_INDEX_BYTES)).files == {}
    assert "cap" in index_refusal(payload.ljust(content.MAX_INDEX_BYTES + 1))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"v":1,"files":{"a":[' + b"[0,0]," * 30_000 + b"[0,0]]}}",
        b'{"v":1,"index":[' + b"[]," * 50_000 + b"[]]}",
        b'{"v":1,"files":{' + b",".join(b'"F%d":0' % n for n in range(50_000)) + b"}}",
    ],
    ids=["pairs", "pieces", "paths"],
)
def test_an_index_full_of_faults_costs_no_more_than_its_first(payload):
    # Collecting every fault took 5 GB and half a minute for the 16 MB that an index may have.
    tracemalloc.start()
    index_refusal(payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * len(payload)


@given(st.lists(st.integers(1, MAX_CHUNK_BYTES), max_size=20))
def test_the_offset_of_a_chunk_is_the_length_of_those_before_it(lengths):
    chunks = [ChunkRef(A, length) for length in lengths]
    placed = content.offsets(chunks)
    assert [chunk for _, chunk in placed] == chunks
    assert [position for position, _ in placed] == [sum(lengths[:n]) for n in range(len(lengths))]


@pytest.mark.parametrize("mark", ["[],", "{},", "1,", '"":0,'])
def test_an_index_of_nothing_but_structure_costs_no_memory(mark):
    payload = (mark * 4_000_000).encode()[: content.MAX_INDEX_BYTES]
    tracemalloc.start()
    try:
        assert "not made of chunks" in index_refusal(payload)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(payload), "parsing it would take thirty times as much"


def test_a_file_of_the_largest_size_has_room_in_an_index():
    chunk_bytes = 31 * 1024  # as fleet/chunker.py cuts, on average
    pairs = [[A, chunk_bytes]] * (MAX_FILE_BYTES // chunk_bytes)
    payload = json.dumps({"v": 1, "files": {"model.onnx": pairs}}, separators=(",", ":")).encode()
    assert 0.8 * content.MAX_INDEX_BYTES < len(payload) < content.MAX_INDEX_BYTES
    assert len(parse_index(payload).chunks_of("model.onnx")) == len(pairs)
