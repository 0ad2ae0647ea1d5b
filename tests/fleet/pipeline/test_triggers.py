"""What triggers read of a project's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.pipeline.triggers import read_watched
from tests.fleet.pipeline.test_watch import DAY_MS, PROJECT
from wire.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('every = "often"', "is no duration"),
        ("every = 7", "is no duration"),
        ('budget = "many"', "budget"),
        ("min_accuracy = 2", "min_accuracy"),
        ('on = ["weather"]', "on"),
        ("surprise = 1", "surprise"),
        ("[", "pipeline.toml"),
    ],
)
def test_a_faulty_section_is_refused_with_its_key(tmp_path: Path, line: str, part: str) -> None:
    text = PROJECT.replace('on = ["drift"]', line)
    (tmp_path / "pipeline.toml").write_text(text)
    with pytest.raises(ConfigError, match=part.replace("[", r"\[")) as caught:
        read_watched(tmp_path)
    assert caught.value.code == "project_invalid"


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_watched(tmp_path)
    assert caught.value.code == "project_missing"


def test_durations_and_budget_are_read_with_their_units(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(PROJECT)
    policy = read_watched(tmp_path).policy
    assert policy.cooldown_ms == 3_600_000
    assert (policy.budget_count, policy.budget_ms) == (4, 30 * DAY_MS)
