"""Captured rows for tests, and what a pack says of them."""

import struct

import numpy as np

from agent.core.captured import CapturedRow, RowTensor

X = RowTensor("X", False, "FP32", 1, (4,))
Y = RowTensor("Y", True, "INT64", 1, ())
MANIFEST = "a" * 64


def row(number, *, score=None, model="digits", at_unix_ms=None, size=4, id_=None, version="1.0.0"):
    """Return a row whose values are its number."""
    tensor = RowTensor("X", False, "FP32", 1, (size,))
    return CapturedRow(
        model=model,
        version=version,
        manifest=MANIFEST,
        at_unix_ms=number if at_unix_ms is None else at_unix_ms,
        id=f"id-{number}" if id_ is None else id_,
        score=score,
        tensors=(tensor, Y),
        left_out=(),
        data=np.full(size, number, "<f4").tobytes() + struct.pack("<q", number),
    )


def text_row(texts, width):
    """Return a row of texts."""
    tensor = RowTensor("words", False, "BYTES", width, (len(texts),))
    data = np.array(texts, f"<U{width}").tobytes()
    return CapturedRow("digits", "1.0.0", MANIFEST, 1, "", None, (tensor,), ("age",), data)
