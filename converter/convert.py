"""The conversion from end to end: child process, comparison, golden rows, baseline, bundle."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import ConfigError
from wire.manifest import (
    BASELINE,
    CARD,
    GOLDEN,
    MODEL,
    PARITY,
    SCHEMA,
    Budgets,
    Lineage,
    Manifest,
    TensorSpec,
)

from . import baseline, certificate, golden, metrics, parity, schema
from .bundle import check_output, describe_files, write_bundle
from .card import read_card
from .process import Converted, run_child, scratch_folder
from .request import ConvertReport, ConvertRequest
from .rows import Rows, read_rows

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

MAX_ROUNDING_SHARE: Final = 0.01
MAX_FEATURE_NAME_CHARS: Final = 256 * 1024
"""Of all names together, so that the manifest stays below its cap."""
_LIBRARIES: Final = ("onnx", "onnxruntime", "skl2onnx", "sklearn", "skops")


@dataclass(frozen=True, slots=True)
class _Pack:
    """What goes into a bundle."""

    manifest: Manifest
    files: dict[str, bytes]
    golden_count: int


def convert(request: ConvertRequest, progress: Progress) -> ConvertReport:
    """Convert a model and write its bundle; nothing is written unless all of it succeeds.

    Args:
        request: What to convert.
        progress: Takes one line a step, for a person.

    Raises:
        BundleError: The source, its data or its answers are at fault; `parity_failed` when the
            converted model disagrees with the original.
        ConfigError: `converter_missing`, with what to install.
        PeerError: `request_invalid`.
        StorageError: `output_unwritable` or `scratch_unwritable`.
    """
    request.check()
    _check_installed()
    check_output(request.output, (Path(request.source), request.data))
    progress(f"reading {request.data}")
    rows = read_rows(request.data)
    count = len(rows.values)
    golden.choose_rows(count, 1, None)  # too few are refused before any work is done
    with scratch_folder("convert-") as folder:
        progress(f"converting {request.source} and asking it on {count} rows")
        converted = run_child(request, rows.values, Path(folder))
    progress("comparing the answers")
    margins = _margins(converted)
    outputs = certificate.judge(converted.answers, rows.values, margins)
    verdict = "parity" if converted.answers.original is not None else "no_original"
    progress("choosing golden rows, counting the baseline, packing")
    pack = _pack(request, rows, converted, margins, certificate.encode(verdict, count, outputs))
    digest, size = write_bundle(request.output, pack.manifest, pack.files)
    return ConvertReport(
        output=request.output,
        name=request.name,
        version=request.version,
        manifest=digest,
        bytes=size,
        verdict=verdict,
        row_count=count,
        golden_count=pack.golden_count,
        worst=tuple(result.to_line() for result in outputs),
        metrics=pack.manifest.lineage.metrics,
        warnings=tuple(_warnings(request, converted, pack.manifest)),
    )


def _pack(
    request: ConvertRequest,
    rows: Rows,
    converted: Converted,
    margins: Array | None,
    proof: bytes,
) -> _Pack:
    answers = [converted.answers.converted[spec.name] for spec in converted.outputs]
    answered = list(zip(converted.outputs, answers, strict=True))
    fed, spec = converted.answers.fed, _with_feature_names(converted, request.feature_names)
    chosen = golden.choose_rows(len(fed), sum(a[:1].nbytes for a in (fed, *answers)), margins)
    reference = baseline.make_baseline(
        [(spec, fed)],
        answered,
        rows.sha256,
        probabilities=_probabilities(converted, answered),
        labels=rows.labels,
    )
    given = (
        schema.read_schema(request.schema) if isinstance(request.schema, Path) else request.schema
    )
    card = {CARD: read_card(request.card)} if request.card is not None else {}
    files = {
        MODEL: converted.model,
        GOLDEN: golden.encode([fed[chosen]], [answer[chosen] for answer in answers]),
        BASELINE: reference.model_dump_json().encode(),
        SCHEMA: schema.encode(schema.make_schema(reference, given)),
        PARITY: proof,
        **card,
    }  # fmt: skip
    facts = converted.facts
    manifest = Manifest(
        name=request.name,
        version=request.version,
        files=describe_files(files),
        inputs=(spec,),
        outputs=tuple(converted.outputs),
        opset=converted.opset,
        ir_version=converted.ir_version,
        ops=tuple(converted.ops),
        minimum_runtime=converted.minimum_runtime,
        device_class=request.device_class,
        budgets=Budgets(p99_ms=request.p99_ms, memory_mb=request.memory_mb),
        nan_policy="pass" if request.nan_policy == "pass" else "reject",
        lineage=Lineage(
            data_sha256=rows.sha256,
            code_commit=request.code_commit,
            source_sha256=request.source_sha256,
            source_signer=request.source_signer,
            parameters={
                **({"estimator": facts.estimator} if facts.estimator else {}),
                **facts.parameters,
                **request.origin,
            },
            metrics=metrics.measure(facts.kind, answers[0], rows.labels),
        ),
    )
    return _Pack(manifest, files, len(chosen))


def _probabilities(converted: Converted, answered: list[tuple[TensorSpec, Array]]) -> str:
    """Return the output that is a table of class probabilities; of an ONNX file, going by its answers."""
    is_possible = converted.facts.kind in ("classifier", "onnx")
    return baseline.probabilities_among(answered) if is_possible else ""


def _check_installed() -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the converter is not installed: there is no {', '.join(missing)}",
            code="converter_missing",
            hint="pip install 'modelfleet[converter]'",
        )


def _margins(converted: Converted) -> Array | None:
    """Return how clear each row's label is, by the scores beside it, or None without any."""
    answers = converted.answers
    if all(answer.dtype.kind == "f" for answer in answers.converted.values()):
        return None
    scores = [
        (answers.original or answers.converted)[name]
        for name, answer in answers.converted.items()
        if answer.dtype.kind == "f"
    ]
    return parity.tie_margins(scores[0], converted.facts.choice) if scores else None


def _with_feature_names(converted: Converted, given: tuple[str, ...]) -> TensorSpec:
    """Return the input's description, with the names of its columns if a manifest can hold them."""
    names, spec = converted.facts.feature_names or given, converted.input
    are_plain = all(re.fullmatch(r"[ -~]{1,128}", name) for name in names)
    is_short = sum(map(len, names)) <= MAX_FEATURE_NAME_CHARS
    if are_plain and is_short and len(names) == converted.answers.fed.shape[1]:
        return spec.model_copy(update={"feature_names": names})
    return spec


def _warnings(request: ConvertRequest, converted: Converted, manifest: Manifest) -> list[str]:
    facts, answers = converted.facts, converted.answers
    found = list(facts.warnings)
    found += [f"output {name} is left out: the original has nothing to compare it with"
              for name in facts.dropped]  # fmt: skip
    if (facts.feature_names or request.feature_names) and not manifest.inputs[0].feature_names:
        found.append("the feature names are left out: they are no plain ASCII, or too long")
    if facts.rounding_share > MAX_ROUNDING_SHARE:
        found.append(
            f"rounding X to float32, as devices get it, changes {facts.rounding_share:.1%} of the "
            "answers: scale or shift the features before training"
        )
    floats = [a.reshape(len(a), -1) for a in answers.converted.values() if a.dtype.kind == "f"]
    bad_count = sum(int((~np.isfinite(a).all(axis=1)).sum()) for a in floats)
    if bad_count:
        found.append(f"{bad_count} answers are NaN or infinite: devices count these as errors")
    return found
