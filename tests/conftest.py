"""How tests are shared out among processes (`make test`, `make check`), and how long they may take."""

from functools import cache
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# No assertion on wall-clock time: machines are shared.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

ROOT = Path(__file__).parents[1]
ONE_MACHINE = "tests/system/"
"""Its tests share a wheelhouse and machines that take a minute to make."""


@cache
def shares_fixtures(path):
    return 'scope="module"' in (ROOT / path).read_text("utf-8")


class ByFixture(LoadScopeScheduling):
    """Keeps the tests of a module that share a fixture in one process; all others go anywhere."""

    def _split_scope(self, nodeid):
        path = nodeid.partition("::")[0]
        if path.startswith(ONE_MACHINE):
            return ONE_MACHINE
        return path if shares_fixtures(path) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFixture(config, log)
