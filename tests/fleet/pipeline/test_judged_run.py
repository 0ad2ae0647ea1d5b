"""What rows and models must be for a run to go on: the schema in the folder, limits, a champion."""

import numpy as np
import pytest

from fleet.pipeline.pipeline import run_pipeline
from fleet.pipeline.project import load_project
from fleet.pipeline.run import Options
from tests.fleet.pipeline.projects import TOML, make_folder, rows, write_parquet
from wire.bundle import read_bundle
from wire.errors import ConfigError, ModelfleetError
from wire.schema import Schema

pytestmark = pytest.mark.slow

LIMITS = """
[evaluate]
thresholds = { accuracy = { min = 0.7 } }
"""
CHECKS = Options(push=False, until="validate")
ALL = Options(push=False)
OTHERS = (("b", "FLOAT"), ("c", "FLOAT"), ("y", "INT"), ("site", "BYTES"))
ALL_COLUMNS = (("a", "FLOAT"), *OTHERS)


def run(folder, told, options=ALL):
    return run_pipeline(load_project(folder), options, told)


def test_the_first_run_infers_a_schema_and_the_second_is_the_same_run(folder, told):
    first = run(folder, told, CHECKS)
    text = (folder / "schema.pbtxt").read_text()
    assert 'name: "a"' in text
    assert 'name: "site"' in text
    second = run(folder, told, CHECKS)
    assert second.id == first.id
    assert [path.name for path in (folder / "runs").iterdir() if path.is_dir()].count(first.id) == 1
    assert len(list(folder.glob("runs/*/run.json"))) == 1
    assert (folder / "schema.pbtxt").read_text() == text
    assert told.details["schema"] == "schema.pbtxt"


def test_rows_that_the_schema_does_not_know_end_the_run_with_what_is_wrong(folder, told):
    run(folder, told, CHECKS)
    columns = rows(300, seed=5)
    columns["site"] = np.where(np.arange(300) < 200, "roof", columns["site"])
    write_parquet(folder / "data/more.parquet", columns)
    for _ in range(2):  # what is kept of a step is refused again
        with pytest.raises(ModelfleetError) as caught:
            run(folder, told, CHECKS)
        assert caught.value.code == "data_anomalous"
        assert "site" in str(caught.value)
    (record,) = [r for r in records(folder) if r.state == "failed"]
    assert record.failure.step == "validate"
    assert record.validation.anomalies[0].reason == "ENUM_TYPE_UNEXPECTED_STRING_VALUES"
    text = (folder / "pipeline.toml").read_text()
    (folder / "pipeline.toml").write_text(text + "[schema]\nfail_on = []\n")
    assert run(folder, told, CHECKS).validation.verdict == "anomalous"


def records(folder):
    from fleet.pipeline.record import all_records

    return all_records(folder / "runs")


def test_a_schema_that_is_none_is_told_with_its_line(folder, told):
    (folder / "schema.pbtxt").write_text('feature {\n  nam: "a"\n')
    with pytest.raises(ConfigError) as caught:
        run(folder, told, CHECKS)
    assert "schema.pbtxt" in str(caught.value)


def test_rows_too_far_from_those_of_the_run_before_are_refused(folder, told):
    limit = "\n[schema]\ndrift = { threshold_bits = 0.05 }\n"
    (folder / "pipeline.toml").write_text(TOML + limit)
    (folder / "schema.pbtxt").write_text(
        "".join(f'feature {{ name: "{name}" type: {kind} }}\n' for name, kind in ALL_COLUMNS)
    )
    run(folder, told, CHECKS)
    other = rows(seed=1)
    write_parquet(folder / "data/rows.parquet", other)
    run(folder, told, CHECKS)  # as those before, but for chance
    other["a"] = other["a"] * 3 + 4
    write_parquet(folder / "data/rows.parquet", other)
    with pytest.raises(ModelfleetError, match=r"'a' lies .* bits from the previous data") as caught:
        run(folder, told, CHECKS)
    assert caught.value.code == "data_anomalous"


@pytest.fixture(scope="module")
def blessed(tmp_path_factory):
    root = tmp_path_factory.mktemp("judged") / "p"
    folder = make_folder(root, toml=TOML + LIMITS)
    (folder / "schema.pbtxt").write_text(
        'feature { name: "a" type: FLOAT presence { min_fraction: 1 min_count: 1 }\n'
        '  float_domain { min: -9 max: 9 } annotation { tag: "device:reject" } }\n'
        + "".join(f'feature {{ name: "{name}" type: {kind} }}\n' for name, kind in OTHERS)
    )
    return folder, run_pipeline(load_project(folder), ALL, Quiet())


class Quiet:
    def began(self, step):
        pass

    def told(self, text):
        pass

    def ended(self, step, detail):
        pass


def test_what_meets_its_limits_is_blessed_and_the_card_says_so(blessed):
    folder, record = blessed
    assert record.verdict.outcome == "bless"
    bundle = read_bundle(folder / "runs" / record.id / "model.bundle")
    card = bundle.files["model_card.md"].decode()
    assert "blessed" in card
    assert record.bundle.model in card
    assert record.id not in card
    assert str(folder) not in card


def test_the_schema_of_the_folder_is_the_gate_of_the_device(blessed):
    folder, record = blessed
    bundle = read_bundle(folder / "runs" / record.id / "model.bundle")
    checks = {c.name: c for c in Schema.model_validate_json(bundle.files["schema.json"]).features}
    assert (checks["a"].low, checks["a"].high, checks["a"].range) == (-9, 9, "reject")
    assert checks["b"].range == "flag"


def test_the_report_shows_it_and_needs_nothing_from_elsewhere(blessed):
    folder, record = blessed
    page = (folder / "runs" / record.id / "report.html").read_text()
    assert page.count("<svg") >= 4
    for word in (
        "blessed",
        "Confusion",
        "Calibration",
        record.bundle.manifest,
        "data/rows.parquet",
    ):
        assert word in page
    assert "<script" not in page
    assert "src=" not in page
    assert "<image" not in page  # the policy lets none in: a browser would show a broken one
    assert "default-src 'none'" in page


def test_a_worse_model_is_refused_beside_the_champion(blessed, told):
    folder, first = blessed
    champion = folder / "runs" / first.id / "model.bundle"
    (folder / "champion.bundle").write_bytes(champion.read_bytes())
    text = (folder / "pipeline.toml").read_text()
    limits = 'change = { accuracy = { min = -0.01 } }\nchampion = "champion.bundle"\n'
    (folder / "pipeline.toml").write_text(text + limits)
    code = (folder / "train.py").read_text()
    worse = code.replace("data.labels)", "1 - data.labels)")
    assert worse != code
    (folder / "train.py").write_text(worse)
    record = run(folder, told)
    assert record.verdict.outcome == "refuse"
    assert record.verdict.champion == first.bundle.model
    with pytest.raises(ModelfleetError) as caught:
        run_pipeline(load_project(folder), Options(push=True), told, Nowhere())
    assert caught.value.code == "not_blessed"


class Nowhere:
    """A fleet that must not be pushed to."""

    def newest(self, model):
        return None

    def push(self, bundle):
        raise AssertionError(bundle)

    def keep(self, version, record):
        raise AssertionError(record)

    def name(self, model, alias, version, why):
        raise AssertionError(alias)

    def start(self, model, version, plan):
        raise AssertionError(plan)


def test_a_champion_that_is_not_there_is_told(folder, told):
    text = (folder / "pipeline.toml").read_text()
    (folder / "pipeline.toml").write_text(text + '[evaluate]\nchampion = "none.bundle"\n')
    with pytest.raises(ConfigError) as caught:
        run(folder, told)
    assert caught.value.code == "champion_missing"
