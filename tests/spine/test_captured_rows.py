"""From a device's own rows back into the pipeline: captured, labelled, and trained with beside the old ones."""

import json

import numpy as np
import pytest
from pyarrow import csv, parquet

from tests.fleet.pipeline.projects import TOML, make_folder, rows
from tests.spine.models import NAME
from tests.spine.test_capture import ask, given, kept, status

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 40
BATCH = 5
LIMITS = "\n[evaluate]\nthresholds = { accuracy = { min = 0.7 } }\n"
SETTINGS = (
    (TOML + LIMITS)
    .replace('name = "line"', f'name = "{NAME}"')
    .replace('sources = ["data/*"]', 'sources = ["data/*.parquet", "captured/*.parquet"]')
)


def record_of(printed):
    """Return the record that a run prints after its steps."""
    return json.loads(printed[printed.index("\n{\n") :])


def test_rows_of_devices_are_labelled_by_people_and_trained_with(make_bed, tmp_path):
    bed = make_bed("mosquitto", is_split=False)
    folder = make_folder(tmp_path / "p", toml=SETTINGS.replace(', "captured/*.parquet"', ""))
    first = record_of(bed.fleet("pipeline", "run", str(folder), "--json", "--release"))
    bed.add("cam-01", more="\n[capture]\nsample = 1.0\n")
    bed.devices["cam-01"].client.stop()
    ended = bed.until_ended(bed.roll_out("1.0.0", max_s=2.0))
    assert ended["state"] == "finished", ended["reason"]

    new = rows(ROWS + BATCH, seed=9)
    values = np.stack([new[name] for name in "abc"], axis=1)
    port = bed.devices["cam-01"].port
    for number in range(ROWS):
        ask(port, values[number : number + 1], f"part-{number}")
    ask(port, values[ROWS:], "box")
    bed.until("all rows are on disk", lambda: kept(status(bed, "cam-01")) >= ROWS + BATCH)
    bed.fleet("capture", "request", NAME, "--match", "site=lab")
    bed.until("the device has given them", lambda: not given(bed)["cam-01"]["is_open"])

    # People label by the ids that they know; one twice, one in two ways, one that is not there.
    lines = [f"part-{number},{new['y'][number]}" for number in range(ROWS - 2)]
    lines += [lines[0], f"part-{ROWS - 2},0", f"part-{ROWS - 2},1", "box,1", "gone,0"]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["request_id,label", *lines]))
    (folder / "captured").mkdir()
    export = ("capture", "export", NAME, "--labels", str(labels), "--slice", "site")
    output = folder / "captured/new.parquet"
    said = bed.fleet(*export, "--label", "y", "--output", str(output))
    assert f"wrote {ROWS - 2} labelled rows of {ROWS + BATCH} captured rows" in said
    for line in (
        f"without a label: {BATCH + 1} rows",
        "with labels that differ, so none is taken: 1 row",
        "not taken: 1 label for a request id that several rows have",
        "not taken: 1 label for none of these rows",
        "given more than once: 1 label",
    ):
        assert line in said, said
    table = parquet.read_table(output)
    numbers = [int(i.removeprefix("part-")) for i in table["captured.request_id"].to_pylist()]
    assert sorted(numbers) == list(range(ROWS - 2))
    for place, name in enumerate("abc"):
        assert table[name].to_pylist() == values[numbers, place].tolist()
    assert table["y"].to_pylist() == new["y"][numbers].tolist()
    assert set(table["captured.tag.site"].to_pylist()) == {"lab"}
    assert set(table["captured.answer"].to_pylist()) <= {0, 1}
    assert all(0.5 <= score <= 1 for score in table["captured.score"].to_pylist())

    # The rest goes to who labels, and comes back with one more column.
    todo = tmp_path / "todo.parquet"
    bed.fleet(*export, "--unlabelled", "--output", str(todo))
    left = parquet.read_table(todo)
    assert left.num_rows == BATCH + 2
    found = {tuple(row): y for row, y in zip(values.tolist(), new["y"].tolist(), strict=True)}
    seen = zip(*(left[name].to_pylist() for name in "abc"), strict=True)
    csv.write_csv(
        left.append_column("label", [[found[row] for row in seen]]), tmp_path / "done.csv"
    )
    done = (*export[:3], "--labels", str(tmp_path / "done.csv"), *export[5:], "--label", "y")
    bed.fleet(*done, "--output", str(folder / "captured/rest.parquet"))

    (folder / "pipeline.toml").write_text(SETTINGS)
    run = ("pipeline", "run", str(folder), "--json")
    second = record_of(bed.fleet(*run))
    assert second["state"] == "done"
    assert second["id"] != first["id"]
    assert second["data"]["row_count"] == first["data"]["row_count"] + ROWS + BATCH
    assert [source["path"] for source in second["data"]["sources"]] == [
        "captured/new.parquet", "captured/rest.parquet", "data/rows.parquet",
    ]  # fmt: skip
    assert second["data"]["feature_names"] == ["a", "b", "c"]

    # Exported once more it is the same rows, and nothing is trained again.
    before = output.read_bytes()
    bed.fleet(*export, "--label", "y", "--output", str(output))
    assert output.read_bytes() == before
    again = record_of(bed.fleet(*run))
    assert again["bundle"] == second["bundle"]
    assert {step["state"] for step in again["steps"]} == {"cached"}
    assert bed.tracebacks() == []
