"""`fleet capture export` of a file to train with: rows, their releases, their devices' tags and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.api.capture_schemas import CaptureExportIn
from fleet.api.schemas import Device
from wire.errors import ConfigError, PeerError
from wire.manifest import Manifest, digest_of, parse_manifest

from .client import Client, all_pages
from .console import counted, say

if TYPE_CHECKING:
    from fleet.pipeline.captured import CapturedRows
    from fleet.pipeline.labelling import Joined


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of captured rows.

    Attributes:
        output: Where it goes.
        labels: The file of labels.
        label: The name of their column in `output`.
        slices: Tags that get columns of their own.
        version: Only rows that this version answered.
        is_rest: Whether the rows without a label are meant.
    """

    output: Path
    labels: Path | None
    label: str
    slices: tuple[str, ...]
    version: str | None
    is_rest: bool


def export_table(client: Client, body: CaptureExportIn, wanted: Wanted) -> None:
    """Write the file, and tell what is in it and what is not.

    Raises:
        ConfigError: `no_rows_to_export`, or as `CapturedRows`.
        BundleError: The file of labels is wrong.
        PeerError: The controller refused it, or its answer is wrong.
        StorageError: `export_write`.
    """
    import numpy as np

    from fleet.pipeline.labelling import read_labels

    labels = read_labels(wanted.labels) if wanted.labels is not None else None
    rows = _read(client, body, wanted)
    joined = rows.join(labels) if labels is not None else None
    for line in _told(rows, joined):
        say(line)
    if wanted.is_rest:
        numbers = np.arange(rows.row_count)
        kept = np.setdiff1d(numbers, joined.rows) if joined is not None else numbers
        label, noun = None, "row without a label"
    else:
        assert joined is not None  # noqa: S101 - the command asks for one or the other
        kept, label, noun = joined.rows, (wanted.label, joined.labels), "labelled row"
    if not len(kept):
        raise ConfigError(
            f"there is no {noun} of {body.model} to write",
            code="no_rows_to_export",
            hint="`fleet capture list` shows what is here; --unlabelled writes rows to label",
        )
    rows.write(wanted.output, kept, slices=wanted.slices, label=label)
    count = counted(len(kept), noun) if label else f"{counted(len(kept), 'row')} without a label"
    say(f"wrote {count} of {counted(rows.row_count, 'captured row')} to {wanted.output}")


def _read(client: Client, body: CaptureExportIn, wanted: Wanted) -> CapturedRows:
    from fleet.capture.export import read_packs
    from fleet.pipeline.captured import CapturedRows

    # Whole first: the releases are asked for over the same connection.
    packs = list(read_packs(client.fetch("/v1/capture-exports", body)))

    @cache
    def manifest_of(version: str, digest: str) -> Manifest | None:
        try:
            found = client.get_bytes(f"/v1/releases/{body.model}/{version}/manifest")
        except PeerError as exc:
            if exc.code == "unknown_release":
                return None
            raise
        return parse_manifest(found) if digest_of(found) == digest else None

    tags = dict(_tags(client, body))
    return CapturedRows.read(packs, manifest_of, tags, version=wanted.version)


def _tags(client: Client, body: CaptureExportIn) -> Iterator[tuple[str, dict[str, str]]]:
    if body.device is not None:
        found = [client.get(f"/v1/devices/{body.device}", Device)]
    else:
        found = all_pages(client, "/v1/devices", Device, lambda row: row.id, match=body.match)
    for device in found:
        yield device.id, device.tags


def _told(rows: CapturedRows, joined: Joined | None) -> Iterator[str]:
    if rows.unknown_count:
        yield f"left out: {counted(rows.unknown_count, 'row')} of releases that are not here"
    if rows.unfit_count:
        yield f"left out: {counted(rows.unfit_count, 'row')} that are not what their release takes"
    if rows.left_out:
        yield f"missing, since devices keep them to themselves: {', '.join(sorted(rows.left_out))}"
    if joined is None:
        return
    if without := rows.row_count - len(joined.rows) - joined.conflicting_count:
        yield f"without a label: {counted(without, 'row')}"
    if joined.conflicting_count:
        yield f"with labels that differ, so none is taken: {counted(joined.conflicting_count, 'row')}"
    if joined.ambiguous_count:
        yield (
            f"not taken: {counted(joined.ambiguous_count, 'label')} for a request id that several rows"
            " have; label these by row_id, or say the device"
        )
    if joined.unknown_count:
        yield f"not taken: {counted(joined.unknown_count, 'label')} for none of these rows"
    if joined.repeated_count:
        yield f"given more than once: {counted(joined.repeated_count, 'label')}"
    if joined.empty_count:
        yield f"not taken: {counted(joined.empty_count, 'line')} without a label or an id"
