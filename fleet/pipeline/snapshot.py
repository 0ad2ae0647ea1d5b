"""The rows of a run: read, hashed, split, and kept in files that the same rows always give."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from converter.rows import MAX_DATA_BYTES, read_arrays
from wire.errors import BundleError, ConfigError

from .columns import KINDS, read_columns, to_array, to_text
from .project import FILE_NAME, PARTS, Data, Project
from .repeats import take_once
from .split import FloatArray, buckets_of, canonical, parts_of
from .table import ABOUT, Table

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]

MAX_SOURCES: Final = 10_000
REFERENCE: Final = "reference"
"""The rows that the model has not been trained on, all parts of them together."""
BUCKETS: Final = "buckets"
"""Of the rows to train on; what folds are made by."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows.

    Attributes:
        path: Where it is, from the project's folder on.
        sha256: Digest of the file.
        row_count: None while it has not been read.
    """

    path: str
    sha256: str
    row_count: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a run.

    Attributes:
        table: All of them, in the order of the sources and their rows.
        parts: Number of each row's part, in the order of `PARTS`.
        buckets: What the parts were told by.
        sources: Where they come from.
        sha256: Digest of the rows themselves, whatever files they were in.
        repeated_count: Captured rows that an earlier source has too; they are taken once.
    """

    table: Table
    parts: npt.NDArray[np.int8]
    buckets: FloatArray
    sources: tuple[Source, ...]
    sha256: str
    repeated_count: int

    def part(self, *names: str) -> Table:
        """Return the rows of some parts."""
        return select(self.table, np.isin(self.parts, [PARTS.index(name) for name in names]))


def find_sources(project: Project) -> tuple[Source, ...]:
    """Return the files that `[data] sources` names, in the order of their paths, with their digests.

    Raises:
        ConfigError: `sources_missing`: a pattern that no file matches.
        BundleError: `data_unreadable`.
    """
    found: dict[str, Path] = {}
    for pattern in project.data.sources:
        try:
            # Not Path.glob: that refuses patterns that begin with "/" or "..".
            names = sorted(glob.glob(pattern, root_dir=project.root, recursive=True))  # noqa: PTH207
        except (ValueError, RecursionError) as exc:
            raise _no_source(pattern) from exc
        files = [name for name in names if (project.root / name).is_file()]
        if not files:
            raise _no_source(pattern)
        found.update({name: project.root / name for name in files})
    if len(found) > MAX_SOURCES:
        raise BundleError(
            f"[data] sources names {len(found)} files; at most {MAX_SOURCES} are read",
            code="data_invalid",
        )
    return tuple(Source(name, _digest(path, name)) for name, path in sorted(found.items()))


def read_snapshot(
    project: Project, sources: Sequence[Source], *, max_bytes: int = MAX_DATA_BYTES
) -> Snapshot:
    """Return the rows of these files.

    Raises:
        BundleError: `data_unreadable` or `data_invalid`, with file and column.
        ConfigError: `pipeline_missing`.
    """
    data, read = project.data, []
    left = max_bytes
    for source in sources:
        columns = read_columns(project.root / source.path, source.path, max_bytes=left)
        left = max(0, left - columns.nbytes)
        read.append((source.path, columns))
    names = _feature_names(data, *read[0])
    kept, repeated_count = take_once(read, data.label)
    pieces = [_piece(project, names, path, columns) for path, columns in kept]
    table = _joined([piece for piece, _ in pieces], names)
    keys = np.concatenate([key for _, key in pieces if key is not None]) if data.key else None
    buckets = buckets_of(table.values, keys)
    parts = parts_of(buckets, data.split)
    _check_parts(parts, data, len(table.values))
    return Snapshot(
        table=table,
        parts=parts,
        buckets=buckets,
        sources=tuple(
            Source(source.path, source.sha256, columns.num_rows)
            for source, (_, columns) in zip(sources, read, strict=True)
        ),
        sha256=digest_of_rows(table),
        repeated_count=repeated_count,
    )


def select(table: Table, rows: Array) -> Table:
    """Return some rows of a table, by a mask or by their numbers."""
    return Table(
        values=table.values[rows],
        feature_names=table.feature_names,
        labels=None if table.labels is None else table.labels[rows],
        slices={name: column[rows] for name, column in table.slices.items()},
    )


def digest_of_rows(table: Table) -> str:
    """Return a sha-256 that depends on names, types, values and order of rows, and on no file format."""
    digest = hashlib.sha256(b"modelfleet rows 1\n")
    columns = {"X": table.values, "y": table.labels, **table.slices}
    head = [table.feature_names, [(n, a.dtype.kind) for n, a in columns.items() if a is not None]]
    digest.update(json.dumps(head).encode())
    for array in columns.values():
        if array is None:
            continue
        if array.dtype.kind == "U":
            digest.update(json.dumps(array.tolist()).encode())
        elif array.dtype.kind == "i":
            digest.update(np.ascontiguousarray(array.astype("<i8")).tobytes())
        else:
            digest.update(canonical(array).tobytes())
    return digest.hexdigest()


def save_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write one file a part, and one of what the model is not trained on; equal rows, equal bytes.

    One more has the buckets of the rows to train on.
    """
    for name in PARTS:
        (folder / f"{name}.npz").write_bytes(encode_table(snapshot.part(name)))
    (folder / f"{REFERENCE}.npz").write_bytes(encode_table(snapshot.part(*PARTS[1:])))
    trained = snapshot.buckets[snapshot.parts == 0]
    (folder / f"{BUCKETS}.npz").write_bytes(_npz({PARTS[0]: trained}))


def load_part(folder: Path, name: str) -> Table:
    """Return a part of a saved snapshot.

    Raises:
        BundleError: `data_unreadable`.
    """
    arrays = _load(folder / f"{name}.npz")
    slices = [str(name) for name in arrays["slice_names"].tolist()]
    return Table(
        values=arrays["X"],
        feature_names=tuple(str(name) for name in arrays["feature_names"].tolist()),
        labels=arrays["y"],
        slices={name: arrays[f"slice_{number}"] for number, name in enumerate(slices)},
    )


def load_buckets(folder: Path) -> FloatArray:
    """Return the buckets of the rows to train on of a saved snapshot, shape (n_rows,).

    Raises:
        BundleError: `data_unreadable`.
    """
    return _load(folder / f"{BUCKETS}.npz")[PARTS[0]]


def load_parts(folder: Path, names: Sequence[str]) -> Table:
    """Return several parts of a saved snapshot as one table.

    Raises:
        BundleError: `data_unreadable`.
    """
    parts = [load_part(folder, name) for name in names]
    return join_tables(parts)


def join_tables(tables: Sequence[Table]) -> Table:
    """Return tables of the same columns as one."""
    return _joined(tables, tables[0].feature_names)


def encode_table(table: Table) -> bytes:
    """Return an .npz as `fleet convert --data` takes it; nothing is packed, so that no zlib matters."""
    arrays: dict[str, Array] = {
        "X": table.values,
        "feature_names": np.array(table.feature_names, dtype=str),
        "slice_names": np.array(list(table.slices), dtype=str),
        **{f"slice_{number}": column for number, column in enumerate(table.slices.values())},
    }
    if table.labels is not None:
        arrays["y"] = table.labels
    return _npz(arrays)


def _load(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            return read_arrays(path, file)
    except OSError as exc:
        raise BundleError(f"cannot read {path}: {exc.strerror}", code="data_unreadable") from exc


def _npz(arrays: Mapping[str, Array]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue())
    return out.getvalue()


def _digest(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise BundleError(f"cannot read {name}: {exc.strerror}", code="data_unreadable") from exc


def _no_source(pattern: str) -> ConfigError:
    return ConfigError(
        f"[data] sources: no file matches {pattern!r}",
        code="sources_missing",
        hint=f"patterns are looked up from the folder of {FILE_NAME}, such as data/*.parquet "
        f"({', '.join(KINDS)})",
    )


def _feature_names(data: Data, path: str, columns: pa.Table) -> tuple[str, ...]:
    if data.features:
        return data.features
    others = {data.label, *data.slices, *([data.key] if data.key else [])}
    names = tuple(
        name for name in columns.column_names if name not in others and not name.startswith(ABOUT)
    )
    if not names:
        raise BundleError(f"{path} has no column to feed a model with", code="data_invalid")
    return names


def _piece(
    project: Project, names: tuple[str, ...], path: str, columns: pa.Table
) -> tuple[Table, Array | None]:
    """Return the rows of one file, and what they are split by."""
    data = project.data
    wanted = {**dict.fromkeys(names, "features"), data.label: "label"}
    wanted |= dict.fromkeys(data.slices, "slices") | ({data.key: "key"} if data.key else {})
    _check_columns(data, wanted, path, columns)
    arrays = [to_array(columns[name], f"{path}: column {name!r}") for name in names]
    labels = _labels(project, to_array(columns[data.label], f"{path}: column {data.label!r}"), path)
    slices = {name: to_text(columns[name], f"{path}: column {name!r}") for name in data.slices}
    key = to_text(columns[data.key], f"{path}: column {data.key!r}") if data.key else None
    return Table(_stacked(arrays, names, path), names, labels, slices), key


def _check_columns(data: Data, wanted: Mapping[str, str], path: str, columns: pa.Table) -> None:
    there = set(columns.column_names)
    named = {name for name in there if not name.startswith(ABOUT)}
    for name, key in wanted.items():
        if name not in there:
            captured = (
                f"captured rows have a tag as a column by `fleet capture export --slice {name}`; "
                if key == "slices" and named < there
                else ""
            )
            raise BundleError(
                f"{path} has no column {name!r}, which [data] {key} is about",
                code="data_invalid",
                hint=f"{captured}it has {', '.join(columns.column_names[:12])}"
                + (" and more" if len(there) > 12 else ""),
            )
    if extra := named - wanted.keys() if not data.features else None:
        raise BundleError(
            f"{path} has a column {min(extra)!r} that the first file does not have",
            code="data_invalid",
            hint="[data] features names the columns that the model is fed",
        )


def _stacked(arrays: Sequence[Array], names: Sequence[str], path: str) -> Array:
    texts = [name for name, a in zip(names, arrays, strict=True) if a.dtype.kind == "U"]
    if texts and len(texts) < len(arrays):
        raise BundleError(
            f"{path} has text in {', '.join(texts[:5])} and numbers in other columns: a model is fed"
            " one type",
            code="data_invalid",
            hint="encode the text as numbers, or name the columns to feed in [data] features",
        )
    return np.ascontiguousarray(np.stack(arrays, axis=1))


def _labels(project: Project, labels: Array, path: str) -> Array:
    name = project.data.label
    is_float = labels.dtype.kind == "f"
    missing = ~np.isfinite(labels) if is_float else labels == "" if labels.dtype.kind == "U" else ()
    if bad := int(np.count_nonzero(missing)):
        raise BundleError(
            f"{path}: label {name!r} is missing or infinite in {bad} of {len(labels)} rows, first in"
            f" row {int(np.argmax(missing))}",
            code="data_invalid",
            hint="leave these rows out: a model cannot be trained or judged by them",
        )
    if project.model.kind == "regressor":
        if labels.dtype.kind == "U":
            raise BundleError(
                f"{path}: label {name!r} is text, and a regressor answers numbers",
                code="data_invalid",
            )
        return labels.astype(np.float64)
    if labels.dtype.kind == "U":
        return labels
    whole = labels.astype(np.int64)
    if not np.array_equal(whole, labels):
        raise BundleError(
            f"{path}: label {name!r} holds fractions, which are no classes",
            code="data_invalid",
            hint='[model] kind = "regressor" is for numbers',
        )
    return whole


def _joined(pieces: Sequence[Table], names: tuple[str, ...]) -> Table:
    kinds = {piece.values.dtype.kind == "U" for piece in pieces}
    label_kinds = {p.labels.dtype.kind for p in pieces if p.labels is not None}
    if len(kinds) > 1 or len(label_kinds) > 1:
        raise BundleError(
            "the files of [data] sources differ: what is text in one is a number in another",
            code="data_invalid",
        )
    return Table(
        values=np.concatenate([piece.values for piece in pieces]),
        feature_names=names,
        labels=np.concatenate([p.labels for p in pieces if p.labels is not None]),
        slices={
            name: np.concatenate([piece.slices[name] for piece in pieces])
            for name in pieces[0].slices
        },
    )


def _check_parts(parts: npt.NDArray[np.int8], data: Data, row_count: int) -> None:
    for number, (name, share) in enumerate(zip(PARTS, data.split.shares, strict=True)):
        if share and not np.count_nonzero(parts == number):
            raise BundleError(
                f"of {row_count} rows none is in {name}, whose share is {share:g}",
                code="data_invalid",
                hint="give more rows; equal ones, or those of one [data] key, stay together",
            )
