"""What comes after the newest release, and what a page or a hash is not taken in by."""

import pytest

from fleet.pipeline.charts import class_balance, intervals, search
from fleet.pipeline.code import read_code
from fleet.pipeline.page import Page
from fleet.pipeline.release import next_minor
from wire.errors import ConfigError


@pytest.mark.parametrize(
    ("newest", "following"),
    [
        (None, "1.0.0"),
        ("1.0.0", "1.1.0"),
        ("1.9.3", "1.10.0"),
        ("2.0", "2.1.0"),
        ("0.0.7-rc.1+x", "0.1.0"),
    ],
)
def test_the_next_minor_version_follows(newest, following):
    assert next_minor(newest) == following


@pytest.mark.parametrize("newest", ["final", "1", "2026-01-01", "1.x.0", "v1.0.0"])
def test_what_cannot_be_counted_is_told(newest):
    with pytest.raises(ConfigError) as caught:
        next_minor(newest)
    assert newest in str(caught.value)
    assert "[release] version" in caught.value.hint


def test_the_hash_of_the_code_is_of_names_and_contents_and_of_no_other_file(tmp_path):
    (tmp_path / "a.py").write_text("x")
    before = read_code(tmp_path)
    for name in ("runs/r.py", "data/d.py", ".venv/v.py", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("y")
    assert read_code(tmp_path).sha256 == before.sha256
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = read_code(tmp_path)
    assert renamed.sha256 != before.sha256
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/c.py").write_text("")
    assert read_code(tmp_path).files == ("b.py", "deep/c.py")
    assert read_code(tmp_path).sha256 != renamed.sha256


def test_no_text_of_a_page_is_markup():
    evil = "<img src=x onerror=alert(1)>&\"'"
    page = Page(evil)
    page.header(evil, evil, "good", [evil])
    page.section(evil)
    page.heading(evil)
    page.text(evil)
    page.items([evil])
    page.facts([(evil, evil), (evil, f"`{evil}`")])
    page.table((evil,), [(evil,)], numbers=(0,))
    page.picture(class_balance({evil: {evil: 1, "$x$": 2}}), evil)
    page.picture(intervals([(evil, 0.5, 0.4, 0.6)], evil))
    html = page.html()
    assert "<img" not in html
    assert "&lt;img" in html


def test_a_picture_is_the_same_each_time_and_names_no_place():
    one = search([0.5, None, 0.7], [0.5, 0.5, 0.7], "accuracy")
    assert search([0.5, None, 0.7], [0.5, 0.5, 0.7], "accuracy") == one
    assert one.startswith("<svg role=")
    assert "<script" not in one
    assert "<metadata" not in one
