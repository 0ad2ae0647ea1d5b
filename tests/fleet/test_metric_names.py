"""The table of OpenTelemetry's names has every metric that the programs tell, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.testclient import TestClient

from agent.control import Tally
from agent.runtime.exposition import Served, render
from fleet.api.app import build_app
from tests.fleet.peers import Fleet

INTEROP = Path(__file__).parents[2] / "docs" / "interop.md"
NONE = "\N{EN DASH}"
CONVENTION = r"(?:process|system|http\.server)(?:\.[a-z_]+)+"


def table() -> dict[str, str]:
    """Return OpenTelemetry's name of each metric, a dash where there is none."""
    section = INTEROP.read_text().partition("## OpenTelemetry's names")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([a-z_]+)` \| (\S+) \|", section, re.MULTILINE))


def told(text: str) -> set[str]:
    """Return the names of all metrics in a text for Prometheus."""
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    return {name for name in names if not name.endswith("_created")}


def test_the_table_has_what_controller_and_runtime_tell(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.settle()
    with TestClient(build_app(fleet.controller), headers=fleet.bearer()) as api:
        controller = told(api.get("/metrics").text)
    fleet.controller.stop()
    fleet.store.close()
    served = {"digits": Served("1.0.0", Tally())}
    runtime = told(render(served, runtime="onnxruntime 1", rss_bytes=1).decode())
    assert len(controller) > 15
    assert len(runtime) > 4
    assert set(table()) == controller | runtime


def test_a_name_is_one_of_a_convention_or_a_dash() -> None:
    names = [name for name in table().values() if name != NONE]
    assert len(names) > 5
    assert [name for name in names if not re.fullmatch(f"`{CONVENTION}`", name)] == []
