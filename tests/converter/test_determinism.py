"""Equal input gives equal bytes: in any process, directory, temporary directory and hash seed, on
any number of cores."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

pytestmark = pytest.mark.slow

FLEET = Path(sys.prefix) / "bin" / "fleet"


def forest():
    return RandomForestClassifier(15, n_jobs=2, random_state=0)


def pipeline():
    union = FeatureUnion([("p", PolynomialFeatures(2)), ("s", SelectKBest(k=2))])
    voting = VotingClassifier(
        [("a", LogisticRegression()), ("b", GaussianNB()), ("c", LogisticRegression(C=9))],
        voting="soft",
    )
    return make_pipeline(StandardScaler(), union, voting)


@pytest.fixture
def sources(tmp_path, digits, doubling):
    """One folder of sources, copied to each place: the bytes of a source are its identity."""
    (tmp_path / "sources").mkdir()
    labels = np.array(["zeta", "alpha"])[digits.label]
    for name, make in (("forest", forest), ("pipeline", pipeline)):
        skops.io.dump(make().fit(digits.rows, labels), tmp_path / "sources" / f"{name}.skops")
    (tmp_path / "sources" / "graph.onnx").write_bytes(doubling.SerializeToString())
    np.savez(tmp_path / "sources" / "data.npz", X=digits.rows, y=labels)
    return tmp_path / "sources"


def convert(source, place, seed, *, before=()):
    """Run the command at `place`; return the digest of the bundle's bytes."""
    for name in ("work", "tmp", "home"):
        (place / name).mkdir(parents=True)
    argv = ["convert", source, "--name", "m", "--version", "1", "--data",
            source.parent / "data.npz", "--output", "m.bundle", "--json"]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(seed),
        "TMPDIR": str(place / "tmp"),
        "HOME": str(place / "home"),
    }
    done = subprocess.run(
        [*before, FLEET, *argv], cwd=place / "work", env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return hashlib.sha256((place / "work" / "m.bundle").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["forest.skops", "pipeline.skops", "graph.onnx"])
def test_two_processes_in_two_places_write_the_same_bytes(sources, tmp_path, name):
    one = convert(sources / name, tmp_path / "one", 1)
    other = convert(sources / name, tmp_path / "another" / "deeper", 2)
    assert one == other


def test_the_number_of_cores_changes_nothing(sources, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core only: that the number of cores changes nothing was not seen")
    all_cores = convert(sources / "forest.skops", tmp_path / "all", 1)
    one_core = convert(
        sources / "forest.skops", tmp_path / "one", 1, before=["taskset", "-c", str(cores[0])]
    )
    assert all_cores == one_core


def test_another_input_gives_other_bytes(sources, tmp_path, digits):
    before = convert(sources / "graph.onnx", tmp_path / "before", 1)
    np.savez(sources / "data.npz", X=digits.rows + 1)
    assert convert(sources / "graph.onnx", tmp_path / "after", 1) != before
