"""Rows from files that hold anything: what is wrong with each is said, and nothing is unpickled."""

import bz2
import hashlib
import io
import json
import lzma
import os
import struct
import zipfile

import numpy as np
import pytest

from converter import rows as module
from converter.rows import canonical_rows, cast_rows, check_finite, read_rows
from wire.errors import BundleError

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def refuse(path, code, says=""):
    with pytest.raises(BundleError) as caught:
        read_rows(path)
    assert caught.value.code == code, caught.value
    assert says in f"{caught.value} {caught.value.hint}"
    assert str(caught.value).isprintable()


@pytest.fixture
def file(tmp_path):
    def write(content=None, **arrays):
        path = tmp_path / "data.npz"
        if content is None:
            np.savez(path, **arrays)
        else:
            path.write_bytes(content)
        return path

    return write


def npy(header, body=b"", version=1):
    text = header.encode().ljust(118) + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + body


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def plain(array):
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "rows",
    [
        X,
        X.astype(np.float64),
        X.astype(np.int8),
        X > 3,
        X.astype(str),
        X.astype(">f8"),
        X.astype(">i2"),
        np.asfortranarray(X),
        X.astype(np.float16),
    ],
    ids=lambda rows: str(rows.dtype),
)
def test_a_table_of_numbers_or_strings_is_read(file, rows):
    path = file(X=rows, y=np.arange(4))
    read = read_rows(path)
    assert np.array_equal(read.values, rows)
    assert read.values.dtype.isnative
    assert read.labels.tolist() == [0, 1, 2, 3]
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_labels_are_not_needed_and_other_arrays_are_not_read(file):
    read = read_rows(file(X=X, z=np.array([{}], dtype=object)))
    assert read.labels is None


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": np.arange(4)}, "no array named X"),
        ({"x": X}, "no array named X"),
        ({"X": X[0]}, "shape (3,)"),
        ({"X": X[None]}, "shape (1, 4, 3)"),
        ({"X": np.float32(1)}, "shape ()"),
        ({"X": X[:0]}, "shape (0, 3)"),
        ({"X": X[:, :0]}, "shape (4, 0)"),
        ({"X": X.astype(complex)}, "complex128"),
        ({"X": X.astype("M8[s]")}, "datetime64"),
        ({"X": X.astype("S3")}, "|S3"),
        ({"X": np.zeros((4, 3), "V4")}, "V4"),
        ({"X": np.zeros((4, 3), [("a", "f4")])}, "a"),
        ({"X": X, "y": np.arange(3)}, "X has 4 rows, y has shape (3,)"),
        ({"X": X, "y": np.int64(3)}, "y has shape ()"),
        ({"X": X, "y": np.zeros((4, 2, 2))}, "y has shape (4, 2, 2)"),
        ({"X": X, "y": np.array([1, 2, np.nan, 3])}, "y has missing"),
        ({"X": X, "y": np.array([1, 2, np.inf, 3])}, "y has missing"),
        ({"X": X, "y": np.zeros(4, "M8[s]")}, "y has type datetime64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_that_is_no_table_is_refused(file, arrays, says):
    refuse(file(**arrays), "data_invalid", says)


@pytest.mark.parametrize("name", ["X", "y"])
def test_a_pickle_inside_is_not_opened(file, name, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "marker"), "w"))

    trapped = plain(np.array([[Trap()]], dtype=object))
    path = file(zipped(**{"X": plain(X), name: trapped}))
    refuse(path, "data_unreadable", "astype(str)")
    assert not (tmp_path / "marker").exists()
    with np.load(path, allow_pickle=True) as archive:
        assert archive[name].shape == (1, 1)
    assert (tmp_path / "marker").exists()  # the trap works


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        plain(X),
        b"a,b\n1,2\n",
        zipped(X=b""),
        zipped(X=b"\x93NUMPY"),
        zipped(X=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3)}")),
        zipped(X=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**6, 10**6)}")),
        zipped(X=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}")),
        zipped(X=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 3)}")),
        zipped(X=npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 1)}}")),
        zipped(X=npy("{'descr': '<f4', 'fortran_order': False, 'shape': 'no'}")),
        zipped(X=npy("{'descr': 'urk', 'fortran_order': False, 'shape': (4, 3)}")),
        zipped(X=npy("{'descr': [[[]]], 'fortran_order': False, 'shape': (4, 3)}")),
        zipped(X=npy("{'descr': '<f4'")),
        zipped(X=npy("{[(")),
        zipped(X=npy("__import__('os')")),
        zipped(X=npy("(" * 110)),
        zipped(X=npy("{}", version=9)),
    ],
    ids=range(19),
)
def test_a_foreign_file_is_refused(file, content):
    refuse(file(content), "data_unreadable")


def test_a_shape_without_bytes_is_no_table(file):
    header = "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000, 4)}"
    refuse(file(zipped(X=npy(header))), "data_invalid")


def test_a_file_cut_anywhere_or_changed_anywhere_is_refused(file):
    whole = file(X=X, y=np.arange(4)).read_bytes()
    for length in range(0, len(whole), 7):
        refuse(file(whole[:length]), "data_unreadable")
    position = whole.index(X.tobytes()) + 3
    changed = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    refuse(file(changed), "data_unreadable", "CRC")


def declared(size, content):
    """Return an archive whose directory says that its member has `size` bytes."""
    whole = bytearray(zipped(X=content))
    position = whole.rindex(b"PK\x01\x02") + 24
    whole[position : position + 4] = struct.pack("<I", size)
    return bytes(whole)


def test_a_bomb_is_refused_by_what_it_declares(file, monkeypatch):
    monkeypatch.setattr(module, "MAX_DATA_BYTES", 1000)
    refuse(file(X=np.zeros((400, 3), np.float32)), "data_invalid", "over 1,000 bytes")


def test_a_bomb_that_declares_little_is_read_no_further_than_that(file):
    refuse(file(declared(150, plain(np.zeros((10_000, 3))))), "data_unreadable")


@pytest.mark.parametrize(
    ("method", "body"), [(12, bz2.compress(b"x")), (14, lzma.compress(b"x")), (99, b"x")]
)
def test_a_strange_compression_is_refused(file, method, body):
    whole = bytearray(zipped(X=body))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        position = whole.index(signature) + offset
        whole[position : position + 2] = struct.pack("<H", method)
    refuse(file(bytes(whole)), "data_unreadable")


def test_an_encrypted_file_is_refused(file):
    whole = bytearray(zipped(X=plain(X)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    refuse(file(bytes(whole)), "data_unreadable", "encrypted")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        refuse(type(tmp_path)(path), "data_unreadable", "no regular file")
    refuse(tmp_path / "none.npz", "data_unreadable", "No such file or directory")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuse(tmp_path / "loop", "data_unreadable")


@pytest.mark.parametrize(
    ("given", "fed"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f4"), ("i1", "i8"), ("u2", "i8"), ("?", "i8"), ("U", "O")],
)
def test_rows_get_the_type_that_devices_send(given, fed):
    assert canonical_rows(X.astype(given)).dtype == np.dtype(fed)


def test_what_float32_cannot_hold_is_refused_as_infinite():
    rows = canonical_rows(np.array([[1.0], [1e300]]))
    with pytest.raises(BundleError, match="float32, in 1 of 2 rows, first in row 1"):
        check_finite(rows, "reject")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_missing_values_are_refused_unless_the_model_shall_have_them(bad):
    rows = np.array([[1, 2], [3, bad], [bad, 4]], np.float32)
    with pytest.raises(BundleError, match="in 2 of 3 rows, first in row 1") as caught:
        check_finite(rows, "reject")
    assert caught.value.code == "data_invalid"
    assert "--nan-policy pass" in caught.value.hint
    check_finite(rows, "pass")
    check_finite(rows[:1], "reject")
    check_finite(np.array([["nan"]]), "reject")


@pytest.mark.parametrize("wanted", ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "?", "O"])
def test_rows_are_cast_where_nothing_is_lost_but_precision(wanted):
    rows = np.array([[0, 1]], str if wanted == "O" else np.float64)
    fed = cast_rows(rows, np.dtype(wanted))
    assert fed.dtype == np.dtype(wanted)
    assert fed.tolist() == [["0", "1"]] if wanted == "O" else [[0, 1]]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (np.array([[0.5]]), "i8"),
        (np.array([[300]]), "u1"),
        (np.array([[-1]]), "u4"),
        (np.array([[np.nan]]), "i4"),
        (np.array([[2]]), "?"),
        (np.array([["1.5"]]), "f4"),
        (np.array([[1.5]]), "O"),
    ],
)
def test_rows_that_the_model_does_not_take_are_refused(rows, wanted):
    with pytest.raises(BundleError, match="the model takes") as caught:
        cast_rows(rows, np.dtype(wanted))
    assert caught.value.code == "data_invalid"
    json.dumps(str(caught.value))
