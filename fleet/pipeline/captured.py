"""Captured rows as a table like those that a pipeline trains on: named columns, and what each row is.

The columns are named as the release that answered them names its own. What is said about a row, such as its
device, is in columns that begin with `captured.`, which no model is fed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from fleet.capture.packs import GroupRows, read_pack
from fleet.durable import write_durably
from wire.errors import ConfigError, StorageError
from wire.manifest import Manifest, TensorSpec, column_names, digest_of, label_output
from wire.packs import NUMBER_TYPES

from .columns import check_installed
from .labelling import DEVICE, REQUEST_ID, ROW_ID, Joined, Labels, join
from .table import ABOUT

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]

ROW_ID_CHARS: Final = 24
"""Of a row's id: 96 bits, so that two of a billion rows share one by a chance of 1e-11."""
ANSWER: Final = "answer"

ManifestOf = Callable[[str, str], Manifest | None]
"""Returns the manifest of a release, by its version and its digest; None where there is none."""


@dataclass(slots=True)
class CapturedRows:
    """Rows in the order in which they came.

    Attributes:
        features: The parts of each column that a model is fed, by name.
        blanks: Which of their values the device kept to itself; the same shapes.
        about: The parts of the columns that say what a row is, by name without `captured.`.
        tags: Of each device.
        row_count: How many there are.
        left_out: Columns that some device keeps to itself.
        unknown_count: Rows that are not here, since the controller has no such release.
        unfit_count: The same, since they are not what their release takes.
    """

    features: dict[str, list[Array]] = field(default_factory=dict)
    blanks: dict[str, list[Array]] = field(default_factory=dict)
    about: dict[str, list[Array]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    row_count: int = 0
    left_out: frozenset[str] = frozenset()
    unknown_count: int = 0
    unfit_count: int = 0

    @classmethod
    def read(
        cls,
        packs: Iterable[tuple[str, bytes]],
        manifest_of: ManifestOf,
        tags: Mapping[str, Mapping[str, str]],
        *,
        version: str | None = None,
    ) -> Self:
        """Return the rows of packs.

        Args:
            packs: Each with its device.
            manifest_of: Knows the releases.
            tags: Of each device.
            version: Only rows that this version answered.

        Raises:
            PeerError: As `read_pack`.
            ConfigError: `captures_differ`: rows of different features make no one table.
        """
        made = cls(tags=tags)
        for device, body in packs:
            digest = digest_of(body)
            for number, rows in enumerate(read_pack(body).groups):
                if version not in (None, rows.group.version):
                    continue
                manifest = manifest_of(rows.group.version, rows.group.manifest)
                if manifest is None:
                    made.unknown_count += rows.group.row_count
                else:
                    made._add(rows, manifest, device, f"{device} {digest} {number}")
        return made

    @property
    def devices(self) -> frozenset[str]:
        """Those that the rows are of."""
        return frozenset(str(part[0]) for part in self.about.get(DEVICE, ()))

    def join(self, labels: Labels) -> Joined:
        """Return the rows that labels are for."""
        ids = (self._text(ROW_ID), self._text(REQUEST_ID), self._text(DEVICE))
        return join(labels, *ids)

    def write(
        self,
        path: Path,
        rows: npt.NDArray[np.intp],
        *,
        slices: Sequence[str] = (),
        label: tuple[str, Array] | None = None,
    ) -> None:
        """Write some rows as Parquet, whole or not at all; equal rows make equal files.

        Args:
            path: Where.
            rows: Their numbers.
            slices: Tags to write as columns of their own.
            label: The name of the label's column, and a label of each of these rows.

        Raises:
            ConfigError: `captures_differ`, `column_twice`, `tag_unknown` or `pipeline_missing`.
            StorageError: `export_write`.
        """
        check_installed()
        import pyarrow as pa
        from pyarrow import parquet

        tags = self._tag_names()
        if unknown := sorted(set(slices) - tags):
            raise ConfigError(
                f"none of the rows is of a device with a tag {unknown[0]!r}",
                code="tag_unknown",
                hint=f"their tags are {', '.join(sorted(tags)) or 'none'}",
            )
        columns = {name: self._feature(name, rows) for name in self.features}
        tagged = {f"tag.{tag}": self._tag(tag) for tag in sorted(tags)}
        about = {name: _joined(name, parts) for name, parts in self.about.items()} | tagged
        more = {ABOUT + name: pa.array(values[rows]) for name, values in about.items()}
        more |= {name: pa.array(self._tag(name)[rows]) for name in slices}
        more |= {label[0]: pa.array(label[1])} if label is not None else {}
        if twice := sorted(columns.keys() & more.keys()) or _twice(slices, label):
            raise ConfigError(
                f"{twice[0]!r} would be two columns",
                code="column_twice",
                hint="name the label by --label as in [data] label; tags are written by --slice",
            )
        out = io.BytesIO()
        parquet.write_table(pa.table({**columns, **more}), out)
        try:
            write_durably(path, out.getvalue())
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}", code="export_write") from exc

    def _add(self, rows: GroupRows, manifest: Manifest, device: str, place: str) -> None:
        count = rows.group.row_count
        features = _features(rows, manifest)
        if features is None:
            self.unfit_count += count
            return
        if self.features and features.keys() != self.features.keys():
            raise _differ(f"some have {min(features.keys() ^ self.features.keys())!r}, others not")
        hidden = frozenset(rows.group.left_out)
        for name, (values, tensor) in features.items():
            self.features.setdefault(name, []).append(values)
            is_blank = name in hidden or tensor in hidden
            self.blanks.setdefault(name, []).append(np.full(count, is_blank))
        ids = [
            hashlib.sha256(f"{place} {row}".encode()).hexdigest()[:ROW_ID_CHARS]
            for row in range(count)
        ]
        about = {
            ROW_ID: np.array(ids),
            REQUEST_ID: rows.ids,
            DEVICE: np.full(count, device),
            "at_unix_ms": rows.at_unix_ms,
            "version": np.full(count, rows.group.version),
            "manifest": np.full(count, rows.group.manifest),
            ANSWER: _answers(rows, manifest),
            "score": rows.scores,
        }
        for name, values in about.items():
            self.about.setdefault(name, []).append(values)
        self.left_out |= hidden
        self.row_count += count

    def _feature(self, name: str, rows: npt.NDArray[np.intp]) -> pa.Array:
        import pyarrow as pa

        parts = self.features[name]
        if len({part.dtype.kind == "U" for part in parts}) > 1:
            raise _differ(f"{name!r} is text in some and a number in others")
        values = np.concatenate(parts)[rows]
        if values.dtype == np.float16:
            values = values.astype(np.float32)
        return pa.array(values, mask=np.concatenate(self.blanks[name])[rows])

    def _text(self, name: str) -> list[str]:
        return [text for part in self.about.get(name, ()) for text in part.tolist()]

    def _tag_names(self) -> set[str]:
        return {tag for device in self.devices for tag in self.tags.get(device, {})}

    def _tag(self, tag: str) -> Array:
        names = [self.tags.get(device, {}).get(tag, "") for device in self._text(DEVICE)]
        return np.array(names, dtype=np.str_)


def _features(rows: GroupRows, manifest: Manifest) -> dict[str, tuple[Array, str]] | None:
    """Return columns by name, each with its tensor; None where they are not what the release takes."""
    specs = {spec.name: spec for spec in manifest.inputs}
    if specs.keys() != rows.inputs.keys():
        return None
    found: dict[str, tuple[Array, str]] = {}
    column_count = 0
    for tensor, spec in specs.items():
        values = rows.inputs[tensor]
        if not _fits(values, spec):
            return None
        flat = values.reshape(len(values), -1)
        names = column_names(spec, flat.shape[1])
        found |= {name: (flat[:, number], tensor) for number, name in enumerate(names)}
        column_count += len(names)
    return found if len(found) == column_count else None


def _fits(values: Array, spec: TensorSpec) -> bool:
    is_text = spec.datatype == "BYTES"
    is_typed = values.dtype.kind == "U" if is_text else values.dtype == NUMBER_TYPES[spec.datatype]
    sizes = zip(values.shape[1:], spec.shape[1:], strict=False)
    return (
        is_typed
        and values.ndim == len(spec.shape)
        and all(wanted in (-1, size) for size, wanted in sizes)
    )


def _answers(rows: GroupRows, manifest: Manifest) -> Array:
    """Return the class or number that each row was answered, "" where there is none of one value a row."""
    single = [spec for spec in manifest.outputs if tuple(spec.shape[1:]) in ((), (1,))]
    for spec in (label_output(manifest.outputs), *single):
        values = rows.outputs.get(spec.name) if spec is not None else None
        if values is not None and values.size == len(values):
            return values.reshape(-1)
    return np.full(rows.group.row_count, "")


def _joined(name: str, parts: Sequence[Array]) -> Array:
    """Return one column; answers of several types are told as text."""
    if name == ANSWER and len({part.dtype.kind for part in parts}) > 1:
        parts = [part.astype(np.str_) for part in parts]
    return np.concatenate(parts)


def _twice(slices: Sequence[str], label: tuple[str, Array] | None) -> list[str]:
    names = [*slices, *([label[0]] if label is not None else [])]
    return sorted({name for name in names if names.count(name) > 1 or name.startswith(ABOUT)})


def _differ(how: str) -> ConfigError:
    return ConfigError(
        f"the captured rows make no one table: {how}",
        code="captures_differ",
        hint="narrow them with --version, --device, --match or --since",
    )
