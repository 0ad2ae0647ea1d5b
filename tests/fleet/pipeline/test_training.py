"""The user's training: whatever it does, it ends, and what went wrong is one sentence and a log."""

import os
import signal

import numpy as np
import psutil
import pytest

from fleet.pipeline.snapshot import encode_table
from fleet.pipeline.table import Table
from fleet.pipeline.training import MAX_LOG_BYTES, TrainRequest, train
from tests.fleet.pipeline.projects import rows
from wire.errors import BundleError

pytestmark = pytest.mark.slow

HEAD = """
import os, sys, time
import numpy as np
from sklearn.linear_model import LogisticRegression
"""


@pytest.fixture
def attempt(tmp_path):
    """Return a function that trains with this code."""
    columns = rows()
    values = np.stack([columns[name] for name in "abc"], axis=1)
    table = Table(values, ("a", "b", "c"), columns["y"], {"site": columns["site"]})
    (tmp_path / "data.npz").write_bytes(encode_table(table))

    def run(code, *, timeout_s=120.0, entry="train:train", params=None, out="out"):
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code/train.py").write_text(HEAD + code)
        (tmp_path / out).mkdir()
        request = TrainRequest(
            folder=tmp_path / "code",
            entry=entry,
            data=tmp_path / "data.npz",
            params=params or {},
            seed=7,
            timeout_s=timeout_s,
            log=tmp_path / "train.log",
        )
        return train(request, tmp_path / out)

    run.log = tmp_path / "train.log"
    run.folder = tmp_path
    return run


def test_the_function_gets_rows_and_parameters(attempt):
    path = attempt(
        """
def train(data, params):
    print(data.values.shape, data.values.dtype, data.labels.sum() > 0, data.feature_names)
    print(sorted(set(data.slices["site"].tolist())), params, os.getcwd() == os.path.dirname(__file__))
    return LogisticRegression(**params).fit(data.values, data.labels)
""",
        params={"C": 0.5},
    )
    assert path.name == "estimator.skops"
    assert attempt.log.read_text().splitlines() == [
        "(600, 3) float32 True ('a', 'b', 'c')",
        "['hall', 'lab'] {'C': 0.5} True",
    ]
    assert [p.name for p in path.parent.iterdir()] == ["estimator.skops"]


def test_a_part_of_the_users_own_is_handed_over_as_a_pickle(attempt):
    path = attempt(
        """
class Mine(LogisticRegression):
    pass

def train(data, params):
    return Mine().fit(data.values, data.labels)
"""
    )
    assert path.name == "estimator.pkl"


def test_chance_is_the_same_each_time(attempt):
    code = """
import random
def train(data, params):
    print(random.random(), np.random.rand(), hash("x"))
    return LogisticRegression().fit(data.values, data.labels)
"""
    attempt(code)
    first = attempt.log.read_text()
    attempt(code, out="again")
    assert attempt.log.read_text() == first


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("def train(data, params):\n    return 1 / 0\n", "train_failed",
         "train.py, line 6: ZeroDivisionError: division by zero"),
        ("def train(data, params):\n    sys.exit(3)\n", "train_failed", "SystemExit: 3"),
        ("def train(data, params):\n    raise ValueError('a\\nb\\x1b[31m')\n", "train_failed",
         "ValueError: a"),
        ("def train(data):\n    pass\n", "train_failed", "positional argument"),
        ("def other(data, params):\n    pass\n", "train_unreadable", "no attribute 'train'"),
        ("train = 3\n", "train_unreadable", "train is no function"),
        ("import nothing_like_it\n", "train_unreadable", "No module named 'nothing_like_it'"),
        ("def train(data, params\n", "train_unreadable", "SyntaxError"),
        ("def train(data, params):\n    pass\n", "train_invalid", "returned a NoneType"),
        ("def train(data, params):\n    return LogisticRegression\n", "train_invalid",
         "which is no estimator"),
        ("def train(data, params):\n    os._exit(0)\n", "train_crashed", "ended with 0 before"),
        ("def train(data, params):\n    os._exit(9)\n", "train_crashed", "ended with 9"),
        ("def train(data, params):\n    os.kill(os.getpid(), 11)\n", "train_crashed", "SIGSEGV"),
        ("""def train(data, params):
    m = LogisticRegression().fit(data.values, data.labels)
    m.f = lambda: 1
    return m
""", "train_invalid", "cannot be saved"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence(attempt, code, error, says):
    with pytest.raises(BundleError) as caught:
        attempt(code)
    assert caught.value.code == error
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    if error in ("train_failed", "train_unreadable"):
        assert "Traceback" in attempt.log.read_text()
        assert str(attempt.log) in caught.value.hint


def test_one_that_hangs_is_ended_with_all_that_it_started(attempt):
    with pytest.raises(BundleError) as caught:
        attempt(
            """
import subprocess
def train(data, params):
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    time.sleep(1000)
""",
            timeout_s=30,
        )
    assert caught.value.code == "train_timeout"
    pid = int(attempt.log.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_hundred_megabytes_of_print_are_a_short_log(attempt):
    attempt(
        """
def train(data, params):
    print("the beginning")
    for number in range(100):
        print("x" * 1_000_000)
    print("the end")
    return LogisticRegression().fit(data.values, data.labels)
"""
    )
    size = attempt.log.stat().st_size
    assert MAX_LOG_BYTES / 2 < size < MAX_LOG_BYTES + 1000
    text = attempt.log.read_text()
    assert text.startswith("the beginning\n")
    assert text.endswith("the end\n")
    assert "bytes left out ...]" in text


def test_what_leaves_the_session_and_holds_on_does_not_stop_it(attempt):
    attempt(
        """
import subprocess
def train(data, params):
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(child.pid, flush=True)
    return LogisticRegression().fit(data.values, data.labels)
"""
    )
    os.kill(int(attempt.log.read_text()), signal.SIGKILL)
