"""Captured rows on their way from a device to the controller: what a *pack* is, and its answer.

A pack is a zip archive of at most 60 KiB: `head.json` and, for each group of rows that look alike, a few
arrays as `.npy`. Its sha-256 names it. Rows of any number are as many packs, one at a time; so one that
is lost costs no more than itself, and each fits into one message of every broker.

    head.json             `PackHead`
    0/at_unix_ms.npy      <i8, shape (n_rows,): when each row was answered
    0/id.npy              <U, shape (n_rows,): the id of its request, as the client gave it
    0/score.npy           <f8, shape (n_rows,): its highest class probability, NaN where there is none
    0/input-0.npy         shape (n_rows, …): the first of the group's `inputs`
    0/output-0.npy        shape (n_rows, …): the first of its `outputs`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import Field

from .ids import CaptureId, Digest, ModelName, Version
from .manifest import Datatype, PrintableName
from .messages import Message, Part

MAX_PACK_BYTES: Final = 60 * 1024
"""As a chunk: it fits one message of every broker."""
MAX_PACK_PLAIN_BYTES: Final = 1024 * 1024
"""Of all members of a pack, unpacked."""
MAX_PACK_ROWS: Final = 512
MAX_GROUPS: Final = 16
MAX_TENSORS: Final = 32
"""Inputs, or outputs, of a captured row."""
MAX_LEFT_OUT: Final = 64
MAX_ROW_BYTES: Final = 40 * 1024
"""Of one row's values; with what stands around them a pack of one fits, however ill it packs."""
MAX_TEXT_CHARS: Final = 1024
"""Of a string among the values: they are kept at the width of the longest."""
MAX_ID_CHARS: Final = 256
"""Of a request's id; as the runtime allows."""
MAX_DIMENSIONS: Final = 8

HEAD: Final = "head.json"
AT: Final = "at_unix_ms"
ID: Final = "id"
SCORE: Final = "score"
INPUT: Final = "input"
OUTPUT: Final = "output"

CHAR_BYTES: Final = 4
"""Of a text in an array: UTF-32, as numpy keeps it."""
NUMBER_TYPES: Final[Mapping[Datatype, str]] = {
    "BOOL": "|b1", "UINT8": "|u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "|i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""Type of the elements of each datatype but BYTES, as numpy writes it down."""


class PackGroup(Part):
    """Rows of one release whose values have the same types and shapes."""

    version: Version
    manifest: Digest
    """The release that answered them."""
    row_count: Annotated[int, Field(ge=1, le=MAX_PACK_ROWS)]
    inputs: Annotated[
        tuple[PrintableName, ...], Field(min_length=1, max_length=MAX_TENSORS, fail_fast=True)
    ]
    """Names of the tensors, in the order of the arrays."""
    outputs: Annotated[tuple[PrintableName, ...], Field(max_length=MAX_TENSORS, fail_fast=True)]
    """The same, of what was answered."""
    left_out: Annotated[
        tuple[PrintableName, ...], Field(max_length=MAX_LEFT_OUT, fail_fast=True)
    ] = ()
    """Columns that the device keeps to itself: NaN, 0 or an empty text stands in their place."""


class PackHead(Message):
    """What a pack holds, and for whom."""

    request: CaptureId
    model: ModelName
    is_last: bool
    """Whether nothing more comes for this request; then a pack may be without rows."""
    groups: Annotated[tuple[PackGroup, ...], Field(max_length=MAX_GROUPS, fail_fast=True)] = ()


class PackTaken(Message):
    """The controller's answer to a pack that it has stored, now or before."""

    digest: Digest
    """Of the pack."""
    is_wanted: bool
    """Whether more rows are."""
