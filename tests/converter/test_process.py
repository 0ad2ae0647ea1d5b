"""The child process: however it ends, the parent says it in words and leaves nothing running."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from converter.handover import Answers, Facts, leave, take

ROWS = np.zeros((70, 4), np.float32)


@pytest.fixture
def module(tmp_path, monkeypatch, ask):
    """Return a function that makes a request for a module with this body."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)

    def make(body, **options):
        (tmp_path / "source.py").write_text(f"import os, pathlib, signal, subprocess, sys\n{body}")
        return ask("source:model", ROWS, **options)

    return make


@pytest.fixture
def cores():
    """Let what crashes here leave a memory image, as far as this system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def gone(pid):
    """Wait until a process is no more, or only its exit code."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_module_that_raises_is_quoted(module, refused):
    error = refused(module("raise ValueError('not\\ntoday')"), "source_unreadable")
    assert str(error) == "cannot import source:model: ValueError: not"


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("os._exit(0)", "ended before it was done"),
        pytest.param(*("os._exit(3)", "it ended with 3 and no word"), marks=pytest.mark.slow),
        ("sys.stderr.write('last words\\n'); sys.stderr.flush(); os._exit(3)", "last words"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        pytest.param(
            *("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("os.kill(os.getpid(), 35)", "was ended by signal 35"), marks=pytest.mark.slow
        ),
        pytest.param(*("raise KeyboardInterrupt", "was ended by SIGINT"), marks=pytest.mark.slow),
    ],
)
def test_a_child_that_dies_is_told_how(module, refused, tmp_path, body, says):
    error = refused(module(body), "convert_crashed")
    assert says in str(error)
    assert ("memory" in error.hint) == ("SIGKILL" in says)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data.npz", "out", "scratch", "source.py",  # no core, no bytecode
    ]  # fmt: skip


@pytest.mark.slow
def test_a_child_that_hangs_is_ended_with_all_that_it_started(module, refused, tmp_path):
    request = module(
        "pathlib.Path('pids').write_text(f\"{os.getpid()} {subprocess.Popen(['sleep', '600']).pid}\")\n"
        "signal.pause()\n",
        timeout_s=6.0,
    )
    error = refused(request, "convert_timeout")
    assert "within 6 s" in str(error)
    assert "--timeout" in error.hint
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_what_a_child_leaves_running_is_ended_and_not_waited_for(module, refused, tmp_path):
    request = module(
        "pathlib.Path('pid').write_text(str(subprocess.Popen(['sleep', '600']).pid)); model = 1"
    )
    refused(request, "source_invalid")
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_does_not_outlive_its_parent(module, tmp_path):
    request = module("pathlib.Path('pid').write_text(str(os.getpid())); signal.pause()")
    script = (
        "import converter, pathlib\n"
        "converter.convert(converter.ConvertRequest(\n"
        "    'source:model', 'm', '1', pathlib.Path('data.npz'), pathlib.Path('m.bundle')), print)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    pid, deadline = tmp_path / "pid", time.monotonic() + 30
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(int(pid.read_text()))
    assert not request.output.exists()


def test_any_amount_of_talk_is_taken(module, refused, capfd):
    talk = (
        "for i in range(100000): sys.stderr.write('x' * 99 + '\\n'); sys.stdout.write('y' * 99)\n"
    )
    error = refused(module(f"{talk}sys.stderr.write('the end\\n')\nos._exit(1)"), "convert_crashed")
    assert str(error).endswith("failed: the end")
    assert capfd.readouterr() == ("", "")


def test_words_that_are_no_text_are_shown_as_far_as_they_are(module, refused):
    words = "sys.stderr.buffer.write(b'\\x1b[31m\\xff\\x00' + b'z' * 9999)"
    body = f"{words}\nsys.stderr.flush()\nos._exit(1)"
    assert str(refused(module(body), "convert_crashed")).endswith("zzz")


def test_files_beside_the_user_do_not_replace_libraries(module, refused, tmp_path):
    for name in ("numpy", "json", "sklearn", "onnx", "converter", "wire"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('wrong one')")
    refused(module("model = {}"), "source_invalid")


def test_the_child_gets_no_input(module, refused):
    refused(module("model = input()"), "source_unreadable")


def test_a_full_temporary_directory_is_said(tmp_path, digits, classifier, ask):
    ask(classifier, digits.rows)
    probe = (
        "import converter, pathlib, resource, wire.errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    converter.convert(converter.ConvertRequest(\n"
        "        'model.skops', 'm', '1', pathlib.Path('data.npz'), pathlib.Path('m.bundle')),"
        " lambda step: None)\n"
        "except wire.errors.StorageError as exc:\n"
        "    print(exc.code, exc, exc.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(f"scratch_unwritable cannot write to {tmp_path}: "), done.stderr
    assert "TMPDIR" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "model.skops", "out"]


ANSWERS = Answers(
    fed=ROWS,
    converted={"label": np.zeros(70, np.int64), "odd name/../x": ROWS},
    again={"label": np.zeros(70, np.int64), "odd name/../x": ROWS},
    single={"label": np.zeros(16, np.int64), "odd name/../x": ROWS[:16]},
    original={"label": np.zeros(70, np.int64), "odd name/../x": ROWS},
)
FACTS = Facts(kind="classifier", estimator="E", feature_names=("a", "ü"), warnings=("w",))


def test_what_is_left_is_taken_as_it_was(tmp_path):
    leave(tmp_path, FACTS, ANSWERS)
    facts, answers = take(tmp_path)
    assert facts == FACTS
    for name in ("converted", "again", "single", "original"):
        found, expected = getattr(answers, name), getattr(ANSWERS, name)
        assert list(found) == list(expected)
        assert all(np.array_equal(found[key], expected[key]) for key in found)


def with_change(change):
    return Answers(**{
        field: change.get(field, getattr(ANSWERS, field)) for field in Answers.__dataclass_fields__
    })  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"converted": {}},
        {"again": {"label": ROWS}},
        {"single": {}},
        {"original": {"label": ROWS}},
        {"fed": ROWS[:3]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_whole_is_not_taken(tmp_path, change):
    leave(tmp_path, FACTS, with_change(change))
    assert take(tmp_path) is None


@pytest.mark.parametrize("name", ["facts.json", "fed.npz", "converted.npz", "single.npz"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[", b"PK\x03\x04"])
def test_what_is_damaged_is_not_taken(tmp_path, name, content):
    leave(tmp_path, FACTS, ANSWERS)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert take(tmp_path) is None


@pytest.mark.parametrize(
    "change", [{"kind": "other thing"}, {"rounding_share": "1"}, {"parameters": {"a": 1}}]
)
def test_facts_have_types(tmp_path, change):
    leave(tmp_path, FACTS, ANSWERS)
    body = {**json.loads(FACTS.model_dump_json()), **change}
    (tmp_path / "facts.json").write_text(json.dumps(body))
    assert take(tmp_path) is None
