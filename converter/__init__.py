"""An estimator or a file goes in, a verified bundle comes out.

`convert(request, progress)` makes it, `answer` and `measure` ask the converted model in it, and
`add_card` packs it again with what people should know. What the model's own code could do, it does in
a child process: scikit-learn, skl2onnx and onnxruntime are never imported by the process that calls.
"""

from __future__ import annotations

from .answering import answer, measure
from .card import add_card
from .convert import convert
from .handover import Cost
from .request import ConvertReport, ConvertRequest

__all__ = ["ConvertReport", "ConvertRequest", "Cost", "add_card", "answer", "convert", "measure"]
