import platform
from pathlib import Path

import pytest

from tests.spine.soundness import absent
from tests.storage import tracer


@pytest.fixture(scope="session")
def can_trace():
    """Skip, or fail in CI, where a process cannot be stopped at its system calls."""
    if not tracer.NUMBERS:
        absent(f"faults at system calls: their numbers on {platform.machine()} are not known")
    try:
        ended = tracer.run(lambda: 7, (), Path("/"), lambda *_: None)
    except (OSError, AssertionError) as exc:
        absent(f"faults at system calls: this machine lets nobody trace: {exc}")
    assert ended.code == 7
