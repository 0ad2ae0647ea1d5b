"""Bundles that are whole, of a model that nobody could run."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any


def bundle(
    version: str = "1.0.0", *, model: bytes = b"onnx", baseline: bytes = b"{}", **changes: Any
) -> bytes:
    files = {
        "model.onnx": model,
        "golden.npz": b"golden",
        "baseline.json": baseline,
        "parity.json": b"{}",
    }
    manifest = {
        "v": 1,
        "name": "digits",
        "version": version,
        "files": [
            {
                "path": path,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "media_type": "application/octet-stream",
            }
            for path, data in files.items()
        ],
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
        "opset": {"": 17},
        "ir_version": 8,
        "ops": ["Gather"],
        "minimum_runtime": "1.17",
    } | changes
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in {"manifest.json": json.dumps(manifest).encode(), **files}.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()
