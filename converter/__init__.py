"""An estimator or a file goes in, a verified bundle comes out.

One entry: `convert(request, progress)`. Everything that touches the model runs in child processes;
scikit-learn, skl2onnx, onnx and onnxruntime are never imported by the process that calls.
"""

from __future__ import annotations

from .conversion import convert
from .report import ConvertReport
from .request import ConvertRequest, Limits

__all__ = ["ConvertReport", "ConvertRequest", "Limits", "convert"]
