"""Real runtime processes: start, answer, fail, die, hang, end."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from agent.ports import (
    CandidateFailed,
    CandidateReady,
    GoldenChecked,
    Heartbeat,
    Promoted,
    RuntimeDied,
    WindowClosed,
)
from wire.errors import ConfigError
from wire.latency import LATENCY_BINS
from wire.lifecycle import Code


def pid_of(bench):
    return bench.host._serving.pid


def test_without_models_it_lives_and_is_not_ready(bench):
    assert isinstance(bench.serve(), Promoted)
    assert bench.request("GET", "/v2/health/live") == (200, {"live": True})
    assert bench.request("GET", "/v2/health/ready")[0] == 503
    status, body = bench.infer()
    assert (status, list(body)) == (404, ["error"])


def test_a_model_answers_and_what_it_did_is_counted(bench, make_model):
    bench.serve(make_model("3"))
    for _ in range(5):
        status, body = bench.infer(rows=[(1, 2, 3, 4), (5, 6, 7, 8)])
        assert (status, body["outputs"][0]["data"]) == (200, [3.0, 3.0])
    assert bench.request("POST", "/v2/models/m/infer", b"nonsense")[0] == 400
    assert bench.request("GET", "/v2/models/m")[1]["versions"] == ["3"]
    bench.host.close_window()
    (window,) = bench.wait(WindowClosed).windows
    assert (window.model, window.version) == ("m", "3")
    assert (window.counters.request_count, window.counters.row_count) == (6, 10)
    assert (window.counters.client, window.counters.runtime) == (1, 0)
    assert len(window.counters.latency) == LATENCY_BINS
    assert sum(window.counters.latency) == 5, "a client's fault has no latency"
    bench.host.close_window()
    (window,) = bench.wait(WindowClosed).windows
    assert window.counters.request_count == sum(window.counters.latency) == 0
    assert bench.wait(Heartbeat).models["m"].request_count == 6, "heartbeats count from the start"


def test_faults_are_counted_by_cause(bench, make_model, graphs):
    gather = make_model("1", graphs["lookup"](), name="gather")
    nan = make_model("1", graphs["logarithm"](), name="nan")
    bench.serve(gather, nan)
    assert bench.infer([(0, 1, 2, 3)], name="gather")[0] == 200
    status, body = bench.infer([(0, 1, 2, 16)], name="gather")
    assert status == 500
    assert "Gather" in body["error"]
    status, body = bench.infer([(-1, 1, 1, 1)], name="nan")
    assert status == 200
    assert np.isnan(body["outputs"][0]["data"][0])
    bench.host.close_window()
    windows = {w.model: w.counters for w in bench.wait(WindowClosed).windows}
    assert windows["gather"].runtime == 1
    assert windows["nan"].non_finite == 1


def test_protections_are_reported_and_the_supervisor_is_free_of_them(bench, make_model):
    bench.host.start_candidate((make_model(),), auto_promote=False)
    ready = bench.wait(CandidateReady)
    assert {"rlimits", "no_new_privs", "memory_limit"} <= set(ready.protections)
    assert ready.runtime.startswith("onnxruntime ")
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"golden_error": 0.5}, Code.SELF_TEST_FAILED, "off by up to 0.5"),
        ({"outputs": [{"name": "Z", "datatype": "FP32", "shape": [-1, 1]}]}, Code.LOAD_FAILED, "Z"),
        (
            {"inputs": [{"name": "X", "datatype": "INT64", "shape": [-1, 4]}]},
            Code.LOAD_FAILED,
            "INT64",
        ),
    ],
)
def test_a_candidate_that_does_not_prove_itself_never_serves(bench, make_model, change, code, says):
    bench.serve(make_model("1"))
    bench.host.start_candidate((make_model("2", **change),), auto_promote=False)
    failed = bench.wait(CandidateFailed, CandidateReady)
    assert (failed.model, failed.code) == ("m", code)
    assert says in failed.detail
    assert bench.infer()[1]["model_version"] == "1"


@pytest.mark.parametrize(
    ("pattern", "damage", "code"),
    [
        (rb".*", b"", Code.LOAD_FAILED),
        (rb".*", b"\x08\x08", Code.LOAD_FAILED),  # a version of the format, and no graph
        (rb".*", b"no protobuf at all", Code.MODEL_REFUSED),
        (rb".{20}$", b"", Code.MODEL_REFUSED),
        (rb"ReduceSum", b"Reduce\x1b[m", Code.MODEL_REFUSED),
        (rb"ReduceSum", b"ReduceMin", Code.MODEL_REFUSED),
    ],
)
def test_a_damaged_file_never_serves(bench, make_model, pattern, damage, code):
    model = make_model("1")
    path = model.files["model.onnx"]
    path.write_bytes(re.sub(pattern, damage, path.read_bytes(), count=1, flags=re.DOTALL))
    failed = bench.serve(model)
    assert (type(failed), failed.model, failed.code) == (CandidateFailed, "m", code)


UNREADABLE = "/proc/self/mem"
"""To read its first page is an I/O error, as on a disk that goes bad."""


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz"])
def test_a_file_that_cannot_be_read_is_no_fault_of_the_bundle(bench, make_model, name):
    model = make_model("1")
    path = model.files[name]
    path.unlink()
    path.mkdir()
    failed = bench.serve(model)
    assert (type(failed), failed.model, failed.code) == (CandidateFailed, "m", Code.STORAGE_ERROR)


def test_golden_rows_that_cannot_be_read_for_a_while_are_waited_for(bench, make_model):
    model = make_model("1")
    path = model.files["golden.npz"]
    content = path.read_bytes()
    bench.serve(model)
    path.unlink()
    path.symlink_to(UNREADABLE)
    bench.host.check_golden("m")
    for _ in range(2):
        assert isinstance(bench.wait(Heartbeat, GoldenChecked), Heartbeat)
    path.unlink()
    path.write_bytes(content)
    assert bench.wait(GoldenChecked).is_passed
    path.unlink()
    path.symlink_to(UNREADABLE)
    failed = bench.serve(model)
    assert (type(failed), failed.code) == (CandidateFailed, Code.STORAGE_ERROR)
    assert "Input/output error" in failed.detail


def test_a_killed_runtime_is_reported_and_requests_wait_for_the_next(bench, make_model):
    bench.serve(make_model("1"))
    os.kill(pid_of(bench), signal.SIGKILL)
    died = bench.wait(RuntimeDied)
    assert (died.code, died.detail) == (Code.RUNTIME_DIED, "ended by SIGKILL")
    bench.serve(make_model("2"))
    assert bench.infer()[1]["model_version"] == "2"


def test_an_inference_that_never_ends_is_ended(start_bench, make_model, graphs):
    bench = start_bench(heartbeat_timeout_s=2.0, request_deadline_s=1.0)
    bench.serve(make_model("1", graphs["slow"](2**62)))
    client = threading.Thread(target=bench.try_infer, args=([(200, 0, 0, 0)],))
    client.start()
    died = bench.wait(RuntimeDied)
    assert died.code == Code.REQUEST_STUCK
    client.join(20)
    assert not client.is_alive()


def test_a_slow_model_runs_in_a_thread_and_keeps_its_deadline(start_bench, make_model, graphs):
    bench = start_bench(request_deadline_s=0.5)
    # One golden row runs for well over the 5 ms from which a model counts as slow, and many
    # rows at once take well over the deadline: a Loop with a large carried tensor.
    rows = np.full((1, 4), 200, np.float32)
    bench.serve(make_model("1", graphs["slow"](30_000), data=rows))
    status, body = bench.infer([(200, 0, 0, 0)] * 50_000)
    assert status == 504, body
    assert bench.request("GET", "/v2/health/live")[0] == 200
    bench.host.close_window()
    (window,) = bench.wait(WindowClosed).windows
    assert (window.counters.deadline, window.counters.runtime) == (1, 0)


def test_a_start_that_takes_too_long_is_ended(start_bench, make_model, graphs):
    bench = start_bench(start_timeout_s=0.05)
    failed = bench.serve(make_model("1"))
    assert (type(failed), failed.code) == (CandidateFailed, Code.START_TIMEOUT)


def test_golden_rows_can_run_again(bench, make_model):
    model = make_model("1")
    bench.serve(model)
    bench.host.check_golden("m")
    assert bench.wait(GoldenChecked).is_passed
    with np.load(model.files["golden.npz"]) as archive:
        content = dict(archive)
    content["output_0"] = content["output_0"] + 1
    np.savez(model.files["golden.npz"], **content)
    bench.host.check_golden("m")
    assert not bench.wait(GoldenChecked).is_passed


def test_the_port_of_another_is_refused_with_the_way_out(bench, start_bench, tmp_path):
    from agent.adapters.child import ProcessRuntimeHost

    host = ProcessRuntimeHost(bench.settings, lambda _event: None)
    with pytest.raises(ConfigError) as caught:
        host.open()
    assert caught.value.code == "port_taken"
    assert str(bench.port) in str(caught.value)
    assert "[serve] listen" in caught.value.hint


def test_stop_leaves_no_process_and_no_socket_file(bench, make_model):
    bench.serve(make_model("1"))
    pid = pid_of(bench)
    bench.host.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not bench.socket.exists()
    bench.host.stop()


def test_a_killed_supervisor_leaves_no_orphan(tmp_path):
    script = textwrap.dedent(
        f"""
        import queue, time
        from pathlib import Path
        from agent.adapters.child import ProcessRuntimeHost
        from agent.ports import Promoted, RuntimeSettings
        events = queue.Queue()
        host = ProcessRuntimeHost(
            RuntimeSettings(listen=None, socket=Path({str(tmp_path)!r}) / "s"), events.put)
        host.open()
        host.start_candidate((), auto_promote=True)
        while not isinstance(events.get(timeout=120), Promoted):
            pass
        print(host._serving.pid, flush=True)
        time.sleep(60)
        """
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(supervisor.stdout.readline())
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the runtime outlived its supervisor")
