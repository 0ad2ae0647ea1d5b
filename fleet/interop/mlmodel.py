"""`MLmodel`: the file by which MLflow says what a model's folder holds.

Of its flavours two can be converted: `onnx`, and `sklearn` as a skops archive or a pickle. The file is
MLflow's `mlflow.models.Model` as YAML; the keys are those of `mlflow/onnx` and `mlflow/sklearn` of
mlflow/mlflow 3.17.2. Pure: it comes from a registry that others write to, and names a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wire.codec import first_fault
from wire.errors import PeerError

FILE_NAME: Final = "MLmodel"
MAX_MLMODEL_BYTES: Final = 256 * 1024
"""A signature of some thousand columns takes as much."""
SUFFIXES: Final = {"onnx": (".onnx",), "sklearn": (".skops", ".joblib", ".pkl", ".pickle")}
"""Of each flavour: the files that `fleet convert` takes."""
Place = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/ -]{1,256}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Onnx(_Part):
    data: Place


class _Sklearn(_Part):
    pickled_model: Place


class _Flavors(_Part):
    onnx: _Onnx | None = None
    sklearn: _Sklearn | None = None


class _MlModel(_Part):
    flavors: _Flavors


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The file of a model's folder that is converted.

    Attributes:
        flavor: `onnx` or `sklearn`.
        path: From the folder; it stays in it.
    """

    flavor: str
    path: str


def read_mlmodel(raw: bytes) -> ModelFile:
    """Return which file is to be converted; where there are both flavours, the ONNX.

    Raises:
        PeerError: `mlmodel_invalid`, or `mlmodel_unfit`: a flavour that cannot be converted.
    """
    if len(raw) > MAX_MLMODEL_BYTES:
        raise PeerError(f"{FILE_NAME} is over 256 KiB", code="mlmodel_invalid")
    try:
        # libyaml: the reader in Python takes minutes for some thousand brackets, this one stops at 1000.
        found = _MlModel.model_validate(yaml.load(raw, Loader=yaml.CSafeLoader)).flavors
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        why = first_fault(exc) if isinstance(exc, ValidationError) else "it is no YAML"
        raise PeerError(f"{FILE_NAME}: {why}", code="mlmodel_invalid") from exc
    if found.onnx is not None:
        return _checked(ModelFile("onnx", found.onnx.data))
    if found.sklearn is not None:
        return _checked(ModelFile("sklearn", found.sklearn.pickled_model))
    raise PeerError(
        "the model has no flavor that can be converted",
        code="mlmodel_unfit",
        hint="log it with mlflow.onnx or mlflow.sklearn",
    )


def _checked(file: ModelFile) -> ModelFile:
    if file.path.startswith("/") or ".." in file.path.split("/"):
        raise PeerError(f"{FILE_NAME} names {file.path!r}", code="mlmodel_invalid")
    if not file.path.endswith(SUFFIXES[file.flavor]):
        raise PeerError(
            f"{file.path!r} is no {' or '.join(SUFFIXES[file.flavor])}", code="mlmodel_unfit"
        )
    return file
