"""The baselines of releases, out of their content: what the windows of devices are held against."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from pydantic import ValidationError

from fleet.store.content import ChunkFolder
from fleet.store.releases import ReleaseRow
from wire.codec import first_fault
from wire.content import decode_chunk, parse_index
from wire.errors import BundleError
from wire.histogram import Baseline, CategoryColumn
from wire.manifest import BASELINE, parse_manifest

MAX_BASELINE_BYTES: Final = 4 * 1024 * 1024
"""As on the device: of thousands of columns."""
MAX_KEPT: Final = 64


class Baselines:
    """Reads baselines, and keeps those that were asked for last; a release never changes. Safe from any thread."""

    def __init__(self, chunks: ChunkFolder) -> None:
        self._chunks = chunks
        self._kept: OrderedDict[str, Baseline] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, release: ReleaseRow) -> Baseline:
        """Return the baseline of a release.

        Raises:
            BundleError: `baseline_unusable`: it is no baseline, or over the cap.
            StorageError: `chunk_lost`.
        """
        with self._lock:
            found = self._kept.get(release.manifest) or self._load(release)
            self._kept[release.manifest] = found
            self._kept.move_to_end(release.manifest)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return found

    def _load(self, release: ReleaseRow) -> Baseline:
        manifest = release.manifest
        entry = parse_manifest(release.manifest_body.encode()).file(BASELINE)
        if entry.bytes > MAX_BASELINE_BYTES:
            raise _unusable(manifest, f"it is over {MAX_BASELINE_BYTES} bytes")
        index = parse_index(self._plain(release.index_digest))
        if index.index is not None:
            pieces = b"".join(self._plain(digest) for digest, _ in index.index)
            index = parse_index(pieces)
        parts = (index.files or {}).get(BASELINE, ())
        try:
            return Baseline.model_validate_json(b"".join(self._plain(part[0]) for part in parts))
        except ValidationError as exc:
            raise _unusable(manifest, first_fault(exc)) from exc

    def _plain(self, digest: str) -> bytes:
        return decode_chunk(digest, self._chunks.read(digest))


def cells_of(baseline: Baseline) -> tuple[int, ...]:
    """Return, for each column, how many counts divide its rows; see `fleet.core.windows`."""
    return tuple(
        len(column.categories) + 1 if isinstance(column, CategoryColumn) else len(column.edges) + 2
        for column in (*baseline.inputs, *baseline.outputs)
    )


def _unusable(manifest: str, why: str) -> BundleError:
    return BundleError(
        f"the baseline of {manifest[:12]} cannot be used: {why}"[:300],
        code="baseline_unusable",
        hint="convert the model again",
    )
