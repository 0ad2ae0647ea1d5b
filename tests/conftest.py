"""How tests are shared out among processes (`make test`, `make check`), and how long they may take."""

from functools import cache
from itertools import count
from pathlib import Path

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.postgres import Cluster, need_postgres

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


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL for all tests of this process; each makes a database of its own."""
    need_postgres()
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def make_where(request, tmp_path):
    """Name databases for stores: every test that asks for it runs on SQLite and on PostgreSQL."""
    numbers = count(1)

    def make(*, is_empty=False):
        if request.param == "sqlite":
            return tmp_path / f"fleet-{next(numbers)}.db"
        return request.getfixturevalue("cluster").database(is_empty=is_empty)

    return make


@pytest.fixture
def where(make_where):
    """Where a new store is, on either."""
    return make_where()


@pytest.fixture
def empty(make_where):
    """Where nothing is yet, on either."""
    return make_where(is_empty=True)
