"""pipeline.toml: what is refused, in words that name the key."""

import pytest

from fleet.pipeline.project import FILE_NAME, load_project
from wire.errors import ConfigError

MINIMAL = """
[model]
name = "m"
kind = "classifier"
[data]
sources = ["a.csv"]
label = "y"
"""


def refuse(tmp_path, text, says, code="project_invalid"):
    (tmp_path / FILE_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert caught.value.code == code
    assert says in str(caught.value), str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value) or code == "project_invalid"


def test_what_is_left_out_has_a_value(tmp_path):
    (tmp_path / FILE_NAME).write_text(MINIMAL)
    project = load_project(tmp_path)
    assert project.data.split.shares == (0.7, 0.15, 0.15)
    assert project.train.entry == "train:train"
    assert project.train.timeout_s == 600
    assert project.release.version == "auto"
    assert not project.release.push
    assert project.tune is None
    assert project.root == tmp_path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "[train]\nepochs = 3\n", "[train] epochs: unknown key"),
        (MINIMAL + "[trian]\n", "[trian]: unknown key"),
        ("[model]\nname = 'm'\n", "[model] kind: is missing"),
        (MINIMAL.replace("classifier", "ranker"), "[model] kind: Input should be 'classifier'"),
        (MINIMAL.replace('"m"', '"a b"'), "[model] name"),
        (MINIMAL.replace('["a.csv"]', "[]"), "[data] sources"),
        (MINIMAL + "split = { train = 0.9, validation = 0.2, test = 0.1 }\n", "add up to 1.2"),
        (MINIMAL + "split = { train = nan, validation = 0.2, test = 0.1 }\n", "[data] split.train"),
        (MINIMAL + "slices = ['y']\n", "'y' is the label, and something else too"),
        (MINIMAL + "features = ['y']\n", "'y' is a feature, and something else too"),
        (MINIMAL + "features = ['a', 'a']\n", "a column is named twice"),
        (MINIMAL + "[train]\ntimeout = 5\n", "5 is no duration"),
        (MINIMAL + "[train]\ntimeout = '5 weeks'\n", "is no duration"),
        (MINIMAL + "[train]\nentry = 'os.system(1)'\n", "[train] entry"),
        (MINIMAL + "[train]\nparams = { C = inf }\n", "a value must be finite"),
        (MINIMAL + "[train]\nparams = { day = 2026-01-01 }\n", "[train] params.day"),
        (MINIMAL + "[rollout]\nmatch = 'lab'\n", "[rollout] match"),
        (MINIMAL + "[rollout]\nphases = '1,many'\n", "phases: 'many' is neither a number"),
        (MINIMAL + "[rollout]\nphases = '50%,10%'\n", "each must be larger than the one before"),
        (MINIMAL + "[rollout]\nmatch = 'si/te=lab'\n", "match: "),
        (MINIMAL + "[rollout]\nprobation = '999d'\n", "[rollout] probation: Input should be less"),
        ("root = '/'\n" + MINIMAL, "root: unknown key"),
        ("[model\n", "line 1"),
        (b"\xff\xfe", "can't decode"),
        ("a = " + "[" * 100_000, ""),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_key(tmp_path, text, says):
    refuse(tmp_path, text, says)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path):
    refuse(tmp_path, "#" * 1_100_000, "over 1 MB", "project_unreadable")


def test_where_there_is_no_project_it_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert caught.value.code == "project_missing"
    assert "fleet pipeline init" in caught.value.hint


def test_only_parameters_that_are_there_can_be_changed(tmp_path):
    (tmp_path / FILE_NAME).write_text(MINIMAL + "[train]\nparams = { C = 1 }\n")
    project = load_project(tmp_path)
    assert project.with_params({"C": 2.5}).train.params == {"C": 2.5}
    for changes, code in (({"c": 1}, "param_unknown"), ({"C": float("nan")}, "param_invalid")):
        with pytest.raises(ConfigError) as caught:
            project.with_params(changes)
        assert caught.value.code == code
