"""An estimator or a file goes in, a verified bundle comes out.

One entry: `convert(request, progress)`. What the model's own code could do, it does in a child
process: scikit-learn, skl2onnx and onnxruntime are never imported by the process that calls.
"""

from __future__ import annotations

from .convert import convert
from .request import ConvertReport, ConvertRequest

__all__ = ["ConvertReport", "ConvertRequest", "convert"]
