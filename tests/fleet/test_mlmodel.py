"""What of a model in MLflow is converted, and what a hostile description of one cannot do."""

import pytest

from fleet.interop.mlmodel import MAX_MLMODEL_BYTES, ModelFile, read_mlmodel
from wire.errors import PeerError

ONNX = """
artifact_path: mlflow-artifacts:/1/models/m-db59/artifacts
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.23.2
    providers:
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    loader_module: mlflow.onnx
mlflow_version: 3.17.2
"""
SKLEARN = "flavors: {sklearn: {pickled_model: deep/model.skops, serialization_format: skops}}"


def test_the_onnx_is_taken_and_else_the_estimator():
    assert read_mlmodel(ONNX.encode()) == ModelFile("onnx", "model.onnx")
    assert read_mlmodel(SKLEARN.encode()) == ModelFile("sklearn", "deep/model.skops")
    both = SKLEARN.replace("flavors: {", "flavors: {onnx: {data: a.onnx}, ")
    assert read_mlmodel(both.encode()) == ModelFile("onnx", "a.onnx")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "mlmodel_invalid"),
        ("flavors: [", "mlmodel_invalid"),
        ("[" * 200_000, "mlmodel_invalid"),  # minutes, for a reader that is not on its guard
        ("flavors: !!python/object/apply:os.system ['true']", "mlmodel_invalid"),
        ("x" * (MAX_MLMODEL_BYTES + 1), "mlmodel_invalid"),
        ("flavors: {pytorch: {model_data: data}}", "mlmodel_unfit"),
        (ONNX.replace("data: model.onnx", "data: model.pb"), "mlmodel_unfit"),
        (ONNX.replace("data: model.onnx", "data: /etc/passwd.onnx"), "mlmodel_invalid"),
        (ONNX.replace("data: model.onnx", "data: a/../../b.onnx"), "mlmodel_invalid"),
        (ONNX.replace("data: model.onnx", "data: 'a.onnx?b=..'"), "mlmodel_invalid"),
        (ONNX.replace("data: model.onnx", "data: [a.onnx]"), "mlmodel_invalid"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text, code):
    with pytest.raises(PeerError) as caught:
        read_mlmodel(text.encode())
    assert caught.value.code == code
