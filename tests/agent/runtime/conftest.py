"""Real models, made with onnx.helper, and real runtime processes to serve them."""

import contextlib
import http.client
import json
import queue
import shutil
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.adapters.child import ProcessRuntimeHost
from agent.ports import (
    CandidateFailed,
    CandidateReady,
    Promoted,
    RuntimeSettings,
    ServedModel,
)
from wire.graph import scan_model
from wire.manifest import BASELINE, GOLDEN, MANIFEST, MODEL, PARITY, digest_of

TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}


def const(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def versioned(number):
    """Answers its version, whatever it is asked: [n, 4] -> [n, 1]."""
    nodes = [
        helper.make_node("ReduceSum", ["X", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["none"]),
        helper.make_node("Add", ["none", "version"], ["Y"]),
    ]
    constants = [
        const("axis", np.array([1])),
        const("zero", np.float32([0])),
        const("version", np.float32([number])),
    ]
    return nodes, constants


def lookup():
    """Raises in Gather when an input is outside 0 to 3."""
    nodes = [
        helper.make_node("Cast", ["X"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["g"]),
        helper.make_node("ReduceSum", ["g", "axis"], ["Y"], keepdims=1),
    ]
    return nodes, [const("table", np.arange(4, dtype=np.float32)), const("axis", np.array([1]))]


def logarithm():
    """Answers NaN for negative inputs."""
    nodes = [
        helper.make_node("Log", ["X"], ["l"]),
        helper.make_node("ReduceSum", ["l", "axis"], ["Y"], keepdims=1),
    ]
    return nodes, [const("axis", np.array([1]))]


def odds(scale=1.0):
    """Answers a class and its probabilities, NaN and so class 0 where the inputs are too large."""
    nodes = [
        helper.make_node("MatMul", ["X", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    weights = np.float32(scale) * np.float32([[1, 1, 1], [-1, 1, 2], [1, 1, 1], [-1, 1, 2]])
    outputs = {"label": ("INT64", [-1]), "probabilities": ("FP32", [-1, 3])}
    return nodes, [const("weights", weights)], outputs


def slow(turns):
    """Loops over a small sum `turns` times when the first input is above 100, else once."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["acc", "acc"], ["twice"]),
            helper.make_node("Mul", ["twice", "half"], ["acc_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc_out", TensorProto.FLOAT, None),
        ],
        [const("half", np.float32(0.5))],
    )
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("Greater", ["max", "hundred"], ["is_big"]),
        helper.make_node("Where", ["is_big", "many", "one"], ["turns"]),
        helper.make_node("ReduceSum", ["X", "axis"], ["sum"], keepdims=1),
        helper.make_node("Loop", ["turns", "yes", "sum"], ["Y"], body=body),
    ]
    constants = [
        const("hundred", np.float32(100)),
        const("many", np.int64(turns)),
        const("one", np.int64(1)),
        const("yes", np.bool_(True)),
        const("axis", np.array([1])),
    ]
    return nodes, constants


def growing():
    """Fills as many thousand numbers as the first input says, and answers 0."""
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=1),
        helper.make_node("Mul", ["max", "thousand"], ["many"]),
        helper.make_node("Cast", ["many"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["shape", "flat"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["zero"], keepdims=0),
        helper.make_node("ReduceSum", ["X", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "zero"], ["Y"]),
    ]
    constants = [
        const("thousand", np.float32([[1000]])),
        const("flat", np.array([1])),
        const("axis", np.array([1])),
    ]
    return nodes, constants


@pytest.fixture
def make_model(tmp_path):
    """Write a bundle's files and return them as the runtime gets them."""

    def make(version="1", graph=None, *, name="m", golden_error=0.0, data=None, **manifest):
        nodes, constants, *named = graph or versioned(float(version))
        outputs = named[0] if named else {"Y": ("FP32", [-1, 1])}
        proto = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])],
                [
                    helper.make_tensor_value_info(
                        output, TYPES[datatype], [None if size < 0 else size for size in shape]
                    )
                    for output, (datatype, shape) in outputs.items()
                ],
                constants,
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        rows = np.ones((8, 4), np.float32) if data is None else data
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        answers = session.run(None, {"X": rows})
        answers[0] = answers[0] + np.float32(golden_error).astype(answers[0].dtype)
        folder = tmp_path / f"{name}-{version}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        files = {MODEL: proto.SerializeToString(), BASELINE: b"{}", PARITY: b"{}"}
        golden = {}
        for number, answer in enumerate(answers):
            key = f"output_{number}"
            golden |= {key: answer, f"{key}_atol": 1e-4, f"{key}_rtol": 1e-3}
        np.savez(folder / GOLDEN, input_0=rows, **golden)
        files[GOLDEN] = (folder / GOLDEN).read_bytes()
        body = {
            "v": 1,
            "name": name,
            "version": version,
            "files": [
                {"path": p, "sha256": digest_of(b), "bytes": len(b), "media_type": "x/y"}
                for p, b in files.items()
            ],
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [
                {"name": output, "datatype": datatype, "shape": shape}
                for output, (datatype, shape) in outputs.items()
            ],
            "opset": {"": 17},
            "ir_version": 8,
            "ops": sorted(map(str, scan_model(proto.SerializeToString()).ops)),
            "minimum_runtime": "1.20",
        } | manifest
        files[MANIFEST] = json.dumps(body).encode()
        for path, content in files.items():
            (folder / path).write_bytes(content)
        return ServedModel(
            name=name,
            version=version,
            manifest=digest_of(files[MANIFEST]),
            files={path: folder / path for path in files},
        )

    return make


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bench:
    """A host with real children, its events, and a client."""

    def __init__(self, folder, **settings):
        self.port = free_port()
        self.socket = folder / "agent.sock"
        self.events = queue.Queue()
        self.log = []
        self.settings = RuntimeSettings(
            listen=("127.0.0.1", self.port),
            socket=self.socket,
            **{"start_timeout_s": 120, "drain_s": 5, **settings},
        )
        self.host = ProcessRuntimeHost(self.settings, self.events.put)
        self.host.open()

    def wait(self, *kinds, timeout_s=180):
        """Return the next event of one of `kinds`, ticking the host meanwhile."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                event = self.events.get(timeout=0.2)
            except queue.Empty:
                self.host.tick()
                continue
            self.log.append(event)
            if isinstance(event, kinds):
                return event
        raise AssertionError(f"no {kinds} within {timeout_s} s; got {self.log}")

    def serve(self, *models):
        self.host.start_candidate(models, auto_promote=True)
        return self.wait(Promoted, CandidateFailed)

    def swap(self, *models):
        self.host.start_candidate(models, auto_promote=False)
        ready = self.wait(CandidateReady, CandidateFailed)
        assert isinstance(ready, CandidateReady), ready
        self.host.promote()
        return self.wait(Promoted)

    def request(self, method, path, body=None, headers=None):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            payload = json.dumps(body) if isinstance(body, dict) else body
            client.request(method, path, payload, headers or {})
            answer = client.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            client.close()

    def infer(self, rows=((1, 2, 3, 4),), name="m"):
        flat = [value for row in rows for value in row]
        tensor = {"name": "X", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}
        return self.request("POST", f"/v2/models/{name}/infer", {"inputs": [tensor]})

    def try_infer(self, rows):
        """Ask, whatever becomes of it."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.infer(rows)


@pytest.fixture
def start_bench():
    benches = []

    def start(**settings):
        # pytest's own directories are too deep for the 107 bytes of a unix socket's path.
        folder = Path(tempfile.mkdtemp(prefix="mf-"))
        benches.append(Bench(folder, **settings))
        return benches[-1]

    yield start
    for bench in benches:
        bench.host.stop()
        shutil.rmtree(bench.socket.parent)


@pytest.fixture
def bench(start_bench):
    return start_bench()


@pytest.fixture(scope="module")
def shared_bench():
    """One host for all tests of a module, so that what one leaves behind harms the next."""
    folder = Path(tempfile.mkdtemp(prefix="mf-"))
    bench = Bench(folder)
    yield bench
    bench.host.stop()
    shutil.rmtree(folder)


@pytest.fixture
def graphs():
    return {
        "growing": growing,
        "lookup": lookup,
        "logarithm": logarithm,
        "odds": odds,
        "slow": slow,
        "versioned": versioned,
    }
