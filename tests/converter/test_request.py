"""What is declared is checked before any work is done, and named by its option."""

from dataclasses import replace
from pathlib import Path

import pytest

from converter import ConvertRequest
from wire.errors import PeerError

GOOD = ConvertRequest("m.onnx", "digits", "1.0.0", Path("d.npz"), Path("d.bundle"))


def test_a_plain_request_and_a_full_one_pass():
    GOOD.check()
    replace(
        GOOD, p99_ms=0.5, memory_mb=1, device_class="aarch64", nan_policy="pass",
        code_commit="0" * 64, timeout_s=0.1, version="1.0.0-rc.1+build_7",
    ).check()  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": ""},
        {"name": "../up"},
        {"version": "1:2"},
        {"version": "é"},
        {"p99_ms": 0},
        {"p99_ms": float("nan")},
        {"p99_ms": float("inf")},
        {"memory_mb": 0},
        {"device_class": "x" * 65},
        {"nan_policy": "ignore"},
        {"code_commit": "0" * 65},
        {"timeout_s": 0},
    ],
    ids=str,
)
def test_what_devices_would_refuse_is_refused_by_its_option(changes):
    with pytest.raises(PeerError) as caught:
        replace(GOOD, **changes).check()
    assert caught.value.code == "request_invalid"
    option = next(iter(changes)).removesuffix("_s").replace("_", "-")
    assert str(caught.value).startswith(f"--{option}: ")
