"""Ask TensorFlow Data Validation itself about the shared vectors, and write down its answers.

Run by hand, never by the tests: TFDV wants libraries that this project must not have. It was run
with TFDV 1.16.1 on Python 3.11, in an environment of its own:

    uv pip install tensorflow-data-validation==1.16.1 tensorflow==2.16.2 apache-beam==2.60.0 \
        'pyarrow==10.0.1' 'pandas<2' 'numpy<2' 'protobuf<5'
    python tests/fleet/pipeline/record_tfdv.py

It reads `tfdv/vectors.json` and `tfdv/cases.json` and writes into the same folder, for each table,
`<table>.statistics.pbtxt` and `<table>.schema.pbtxt`, and `anomalies.json` for the cases. With
`vectors` as its argument it makes `vectors.json` anew, seeded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "tfdv"
SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def make_vectors() -> dict[str, Any]:
    """Return tables: column by name, its type and values; null is missing, "nan" is a value."""
    rng = np.random.default_rng(0)
    n = 120
    normal = np.round(rng.normal(3, 2, n), 3)
    colours = rng.choice(["red", "green", "blue", "grün"], n, p=[0.4, 0.3, 0.2, 0.1])

    def holes(values: Any, ratio: float) -> list[Any]:
        return [
            None if hole else v for v, hole in zip(list(values), rng.random(n) < ratio, strict=True)
        ]

    def column(kind: str, values: Any) -> dict[str, Any]:
        return {"type": kind, "values": np.asarray(values).tolist() if len(values) else []}

    def objects(kind: str, values: list[Any]) -> dict[str, Any]:
        return {"type": kind, "values": [v.item() if hasattr(v, "item") else v for v in values]}

    odd = list(np.round(rng.normal(0, 1, 40), 2).tolist())
    return {
        "floats": {
            "normal": column("FLOAT", normal),
            "skewed": column("FLOAT", np.round(rng.lognormal(0, 1.5, n), 3)),
            "missing": objects("FLOAT", holes(normal, 0.3)),
            "constant": column("FLOAT", np.full(n, 2.5)),
            "empty": objects("FLOAT", [None] * n),
            "zeros": column("FLOAT", np.where(rng.random(n) < 0.5, 0.0, normal)),
            "whole": column("FLOAT", rng.integers(0, 5, n).astype(float)),
        },
        "shifted": {
            "normal": column("FLOAT", np.round(rng.normal(4, 2, n), 3)),
            "skewed": column("FLOAT", np.round(rng.lognormal(0.2, 1.5, n), 3)),
            "missing": objects("FLOAT", holes(normal, 0.6)),
            "constant": column("FLOAT", np.full(n, 3.5)),
            "empty": objects("FLOAT", [None] * n),
            "zeros": column("FLOAT", np.where(rng.random(n) < 0.7, 0.0, normal)),
            "whole": column("FLOAT", rng.integers(0, 6, n).astype(float)),
        },
        "odd": {
            "nan": objects("FLOAT", ["nan", "nan", "nan", *odd[3:]]),
            "infinite": objects("FLOAT", ["inf", "inf", *odd[2:]]),
            "negative": objects("FLOAT", ["-inf", *odd[1:]]),
            "both": objects("FLOAT", ["-inf", "inf", "nan", None, *odd[4:]]),
            "only_nan": objects("FLOAT", ["nan"] * 40),
            "only_infinite": objects("FLOAT", ["inf"] * 40),
            "plain": objects("FLOAT", odd),
        },
        "ints": {
            "count": column("INT", rng.poisson(4, n)),
            "binary": column("INT", rng.integers(0, 2, n)),
            "constant": column("INT", np.full(n, 7)),
            "negative": column("INT", rng.integers(-50, 50, n)),
            "large": column("INT", rng.integers(2**40, 2**41, n)),
            "missing": objects("INT", holes(rng.integers(0, 10, n), 0.2)),
            "zero": column("INT", np.zeros(n, int)),
        },
        "strings": {
            "colour": column("STRING", colours),
            "many": column("STRING", [f"word{i}" for i in rng.integers(0, 5000, n)]),
            "boolean": column("STRING", rng.choice(["true", "false"], n)),
            "number": column("STRING", [str(i) for i in rng.integers(0, 9, n)]),
            "missing": objects("STRING", holes(colours, 0.25)),
            "constant": column("STRING", ["x"] * n),
            "long": column("STRING", ["ab" * 600, *["short"] * (n - 1)]),
            "empty": objects("STRING", [None] * n),
            "decimal": column("STRING", [f"{v:.1f}" for v in normal]),
        },
        "strings_later": {
            "colour": column(
                "STRING", rng.choice(["red", "green", "violet"], n, p=[0.1, 0.6, 0.3])
            ),
            "boolean": column("STRING", rng.choice(["true", "no"], n)),
            "number": column("STRING", rng.choice(["1", "two"], n)),
            "constant": column("STRING", ["y"] * n),
        },
        "few": {
            "one.two": column("FLOAT", [1.5, 2.5, 2.5]),
            "with space": column("INT", [3, 1, 2]),
            "quote'd": column("STRING", ["b", "a", "b"]),
        },
        "single": {"value": column("FLOAT", [4.25]), "label": column("INT", [1])},
        "none": {"value": column("FLOAT", [])},
        "odd_later": {"nan": objects("FLOAT", ["nan"] * 5 + [v + 1 for v in odd[5:]])},
        "mixed": {"text": column("STRING", ["nan", "two", "3", " 4 ", "1e3", "-inf"] * 3)},
    }


def batch_of(columns: dict[str, Any]) -> Any:
    """Return a table as TFDV's decoders hand it on: a list of one value a row, null is missing."""
    import pyarrow as pa

    types = {"FLOAT": pa.float64(), "INT": pa.int64(), "STRING": pa.binary()}
    arrays = []
    for column in columns.values():
        kind = column["type"]
        values = [SPECIAL.get(v, v) if kind == "FLOAT" else v for v in column["values"]]
        rows = [None if v is None else [v.encode() if isinstance(v, str) else v] for v in values]
        arrays.append(pa.array(rows, type=pa.list_(types[kind])))
    return pa.RecordBatch.from_arrays(arrays, list(columns))


def main() -> None:
    """Write `vectors.json`, or TFDV's answers."""
    if sys.argv[1:] == ["vectors"]:
        tables = make_vectors()
        lines = [
            f' "{table}": {{\n'
            + ",\n".join(f"  {json.dumps(name)}: {json.dumps(c)}" for name, c in columns.items())
            + "\n }"
            for table, columns in tables.items()
        ]
        (FOLDER / "vectors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return

    import tensorflow_data_validation as tfdv
    from google.protobuf import text_format
    from tensorflow_data_validation.statistics import stats_impl
    from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

    tables = json.loads((FOLDER / "vectors.json").read_text())

    def ask(table: str, schema: Any = None) -> Any:
        options = tfdv.StatsOptions(schema=schema)
        return stats_impl.generate_statistics_in_memory(batch_of(tables[table]), options)

    for table in tables:
        statistics = ask(table)
        text = text_format.MessageToString(statistics, as_utf8=True)
        (FOLDER / f"{table}.statistics.pbtxt").write_text(text)
        schema = tfdv.infer_schema(statistics)
        text = text_format.MessageToString(schema, as_utf8=True)
        (FOLDER / f"{table}.schema.pbtxt").write_text(text)

    kind = anomalies_pb2.AnomalyInfo

    def told(info: Any) -> dict[str, Any]:
        return {
            "severity": kind.Severity.Name(info.severity),
            "reasons": [kind.Type.Name(reason.type) for reason in info.reason],
        }

    answers = {}
    for name, case in json.loads((FOLDER / "cases.json").read_text()).items():
        schema = text_format.Parse(case["schema"], schema_pb2.Schema())
        known = schema if case.get("is_schema_known") else None
        others = {
            f"{key}_statistics": ask(case[key], known)
            for key in ("previous", "serving", "previous_version")
            if key in case
        }
        if "previous_version_statistics" in others:
            # The public call has no such argument, the library below it has.
            from tensorflow_data_validation.api import validation_api

            found = validation_api.validate_statistics_internal(
                ask(case["table"], known),
                schema,
                environment=case.get("environment"),
                previous_span_statistics=others.get("previous_statistics"),
                previous_version_statistics=others["previous_version_statistics"],
            )
        else:
            found = tfdv.validate_statistics(
                ask(case["table"], known), schema, environment=case.get("environment"), **others
            )
        measured = {"drift": "drift_measurements", "skew": "skew_measurements"}

        answers[name] = {
            "features": {key: told(info) for key, info in sorted(found.anomaly_info.items())},
            "dataset": told(found.dataset_anomaly_info)["reasons"],
            "is_data_missing": found.data_missing,
            "measurements": [
                [info.path.step[0], what, m.Type.Name(m.type), m.value, m.threshold]
                for info in found.drift_skew_info
                for what, field in measured.items()
                for m in getattr(info, field)
            ],
        }
    lines = [f" {json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]
    (FOLDER / "anomalies.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
