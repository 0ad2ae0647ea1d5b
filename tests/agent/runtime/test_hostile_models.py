"""Hostile and broken models as candidates of a real host, while an honest runtime is asked.

Each must end in one of the named codes, with a sentence that says what is wrong, and the honest
runtime answers every request meanwhile. The table of all outcomes is printed at the end.
"""

import hashlib
import json
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from agent.ports import CandidateFailed, CandidateReady, Promoted, ServedModel
from tests import hostile
from tests.spine.client import Client
from tests.spine.models import NAME
from tests.spine.processes import until
from wire.errors import BundleError
from wire.graph import scan_model
from wire.lifecycle import Code

pytestmark = pytest.mark.slow

SECRET = b"\x00\x00\x80\x3f" * 4
REFUSED, FAILED, TEST = Code.MODEL_REFUSED, Code.LOAD_FAILED, Code.SELF_TEST_FAILED
TIMEOUT, DIED = Code.START_TIMEOUT, Code.RUNTIME_DIED
EXTERNAL = "keeps weights outside its file"

ROWS = {
    "loop for ever": (lambda: hostile.loop(hostile.FOR_EVER, of="any"), TIMEOUT, "not ready"),
    "load that takes hours": (hostile.folded_for_hours, TIMEOUT, "not ready"),
    "thirty doubling functions": (hostile.doubling_functions, REFUSED, "expand to more"),
    "200,000 nodes": (lambda: hostile.chain(200_000), REFUSED, "more than 20,000 nodes"),
    "a function that calls itself": (hostile.recursive_function, REFUSED, "calls itself"),
    "201 subgraphs deep": (lambda: hostile.nested(201), REFUSED, "nested more than 16"),
    "64 GiB at load": (hostile.bomb_at_load, {FAILED, TEST}, "ConstantOfShape"),
    "a concat that doubles to 256 GiB": (hostile.doubling_concat, {FAILED, TEST}, ""),
    "a tile of 256 GiB": (hostile.tiled, {FAILED, TEST}, "Tile"),
    "weights by absolute path": (lambda: hostile.external(location="/etc/passwd"), REFUSED, EXTERNAL),
    "weights by a path upwards": (lambda: hostile.external(location="../secret"), REFUSED, EXTERNAL),
    "weights by a symbolic link": (lambda: hostile.external(location="symlink"), REFUSED, EXTERNAL),
    "weights by a hard link": (lambda: hostile.external(location="hardlink"), REFUSED, EXTERNAL),
    "weights in the file itself": (
        lambda: hostile.external(location="model.onnx", offset=0, length=4), REFUSED, EXTERNAL,
    ),
    "weights at a negative offset": (
        lambda: hostile.external(location="hardlink", offset=-1), REFUSED, EXTERNAL,
    ),
    "weights in the process's memory": (
        lambda: hostile.external(location=hostile.MEMORY_MARKER, offset=2**32), REFUSED, EXTERNAL,
    ),
    "weights outside, without a place": (hostile.external, REFUSED, EXTERNAL),
    "escape codes in a name": (lambda: hostile.renamed(name="\x1b[2J"), REFUSED, "not printable"),
    "a newline in an operator": (lambda: hostile.renamed(op_type="A\nB"), REFUSED, "not printable"),
    "a bell in a domain": (lambda: hostile.renamed(domain="a\x07"), REFUSED, "not printable"),
    "no UTF-8 in an attribute": (hostile.invalid_utf8, FAILED, "post_eval_transform"),
    "an unknown operator": (hostile.custom_op, FAILED, "Backdoor"),
    "a tree with a cycle": (
        lambda: hostile.trees(nodes_modes=hostile.BRANCHES, nodes_truenodeids=[1, 0, 0],
                              nodes_falsenodeids=[2, 0, 0]), {FAILED, TEST}, "",
    ),
    "a tree that is its own child": (
        lambda: hostile.trees(nodes_truenodeids=[0, 0, 0]), {FAILED, TEST}, "cannot point to itself",
    ),
    "a tree of feature 2^40": (
        lambda: hostile.trees(nodes_featureids=[2**40, 0, 0]), {FAILED, TEST}, "",
    ),
    "a tree of feature -1": (lambda: hostile.trees(nodes_featureids=[-1, 0, 0]), {FAILED, TEST}, ""),
    "a tree of target 2^30": (lambda: hostile.trees(target_ids=[0, 2**30]), {FAILED, TEST}, "1073741824"),
    "a tree of children that are not there": (
        lambda: hostile.trees(nodes_falsenodeids=[2**30, 0, 0]), {FAILED, TEST}, "was false",
    ),
    "a tree of short lists": (lambda: hostile.trees(nodes_values=[0.5]), {FAILED, TEST}, "must match"),
    "a loop that crashes onnxruntime": (
        lambda: hostile.crashing(always=True), {DIED, FAILED, TEST}, "",
    ),
    "cut off": (lambda: hostile.as_bytes(hostile.fine())[:-9], REFUSED, "cut off"),
    "random": (hostile.random_bytes, REFUSED, "no ONNX file"),
    "empty": (lambda: b"", FAILED, "is empty"),
    "text": (lambda: b"a model, honestly", REFUSED, ""),
}  # fmt: skip


class Field:
    """A host whose honest runtime a client asks, and candidates beside it."""

    def __init__(self, bench, folder):
        self.bench, self.folder, self.count = bench, folder, 0
        assert isinstance(bench.serve(self.bundle(hostile.fine())), Promoted)
        self.client = Client("corpus", bench.port)
        self.client.start()
        self.table = []

    def bundle(self, made, *, answers=None, ops=None, **manifest):
        """Return a bundle's files on disk, beside links to what is none of its business."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        secret = self.folder / "secret"
        secret.write_bytes(SECRET)
        (folder / "symlink").symlink_to(secret)
        os.link(secret, folder / "hardlink")
        data = hostile.as_bytes(made)
        rows = np.ones((8, hostile.N_FEATURES), np.float32)
        content = {"model.onnx": data, "baseline.json": b"{}", "parity.json": b"{}"}
        np.savez(
            folder / "golden.npz",
            input_0=rows,
            output_0=rows.sum(axis=1, keepdims=True) if answers is None else answers,
            output_0_atol=1e-4,
            output_0_rtol=1e-3,
        )
        content["golden.npz"] = (folder / "golden.npz").read_bytes()
        content["manifest.json"] = manifest_of(content, ops or operators(data), **manifest)
        for path, body in content.items():
            (folder / path).write_bytes(body)
        return ServedModel(
            name=NAME, version="1", manifest=digest(content["manifest.json"]),
            files={path: folder / path for path in content},
        )  # fmt: skip

    def judge(self, what, model, *, start_timeout_s=120.0, meanwhile=None):
        """Return how a candidate ended; the honest runtime answered all the time."""
        host = self.bench.host
        host._settings = replace(self.bench.settings, start_timeout_s=start_timeout_s)
        began_s = time.monotonic()
        host.start_candidate((model,), auto_promote=False)
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        ended = self.bench.wait(CandidateFailed, CandidateReady)
        took_s = time.monotonic() - began_s
        code = ended.code if isinstance(ended, CandidateFailed) else "ready"
        detail = ended.detail if isinstance(ended, CandidateFailed) else ""
        self.table.append(f"{what:<40} {code:<18} {took_s:5.1f} s  {detail[:290]}")
        assert self.client.failures(began_s) == []
        asked = len(self.client.answers)
        until("the client is answered", lambda: len(self.client.answers) > asked + 1)
        assert self.client.answers[-1].status == 200
        return ended


def digest(content):
    return hashlib.sha256(content).hexdigest()


def manifest_of(content, ops, **changes):
    return json.dumps(
        {
            "v": 1, "name": NAME, "version": "1", "opset": {"": 17}, "ir_version": 8, "ops": ops,
            "minimum_runtime": "1.20",
            "files": [
                {"path": p, "sha256": digest(b), "bytes": len(b), "media_type": "x/y"}
                for p, b in content.items()
            ],
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "Y", "datatype": "FP32", "shape": [-1, 1]}],
        }
        | changes
    ).encode()  # fmt: skip


def operators(data):
    """Declare whatever the file uses: the author is hostile too."""
    try:
        return sorted(map(str, scan_model(data).ops))
    except BundleError:
        return ["ai.onnx:Add"]


@pytest.fixture(scope="module")
def field(shared_bench, tmp_path_factory):
    field = Field(shared_bench, tmp_path_factory.mktemp("corpus"))
    yield field
    field.client.stop()
    print("\n".join(["", *field.table]))  # noqa: T201 - the outcome of the corpus


@pytest.mark.parametrize("name", ROWS)
def test_the_corpus(field, name):
    make, codes, says = ROWS[name]
    is_endless = codes is TIMEOUT
    ended = field.judge(name, field.bundle(make()), start_timeout_s=3.0 if is_endless else 120.0)
    assert isinstance(ended, CandidateFailed), ended
    assert ended.code in (codes if isinstance(codes, set) else {codes}), ended
    assert says in ended.detail
    assert ended.detail.isprintable()
    assert len(ended.detail) >= 10, "words that help"
    assert "onnxruntime_src" not in ended.detail


def test_wrong_golden_answers(field):
    model = field.bundle(hostile.fine(), answers=np.zeros((8, 1), np.float32))
    ended = field.judge("wrong golden answers", model)
    assert (ended.code, "off by up to 4" in ended.detail) == (TEST, True)


def test_nan_where_the_golden_rows_have_numbers(field):
    node = hostile.helper.make_node("Log", ["minus"], ["nan"])
    model = field.bundle(hostile.plus("nan", [node], {"minus": np.float32(-1)}))
    ended = field.judge("NaN for every input", model)
    assert (ended.code, "off by up to inf" in ended.detail) == (TEST, True)


def test_an_operator_that_the_manifest_does_not_declare(field):
    model = field.bundle(hostile.loop(1), ops=["ai.onnx:ReduceSum", "ai.onnx:Add"])
    ended = field.judge("an undeclared Loop", model)
    assert ended.code == REFUSED
    assert "does not declare" in ended.detail


@pytest.mark.parametrize("memory_mb", [10**30, 2**63, -1])
def test_a_declared_budget_beyond_all_machines(field, memory_mb):
    model = field.bundle(hostile.fine(), budgets={"memory_mb": memory_mb})
    ended = field.judge(f"memory_mb {memory_mb:.0e}", model)
    assert ended.code == Code.MANIFEST_INVALID


def test_a_declared_budget_of_a_tebibyte_does_not_buy_a_bomb(field):
    model = replace(
        field.bundle(hostile.bomb_at_load(), budgets={"memory_mb": 2**20}), memory_mb=2**20
    )
    ended = field.judge("64 GiB with a budget of 1 TiB", model)
    assert ended.code in {FAILED, TEST, DIED}


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_in_native_code(field, number):
    """By any signal, while native code runs; one file that does so by itself is in the corpus."""

    def crash():
        child = until("it loads", lambda: field.bench.host._candidate)
        time.sleep(0.5)  # into the load, which never ends
        os.kill(child.pid, number)

    model = field.bundle(hostile.folded_for_hours())
    ended = field.judge(f"{number.name} while it loads", model, meanwhile=crash)
    assert (ended.code, ended.detail) == (DIED, f"ended by {number.name}")
