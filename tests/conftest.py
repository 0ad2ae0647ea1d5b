"""How tests are shared out among processes (`make test`, `make check`), and how long they may take."""

import hypothesis
import pytest

# No assertion on wall-clock time: machines are shared.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

MODULE_SCOPES = {"class", "module", "package"}
ONE_MACHINE = "tests/system/"
"""Its tests share a wheelhouse and machines that take a minute to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Keep the rows of a module that share a fixture in one process; let all others go anywhere."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        path = item.nodeid.partition("::")[0]
        if path.startswith(ONE_MACHINE):
            item.add_marker(pytest.mark.xdist_group(ONE_MACHINE))
        elif any(
            definitions[-1].scope in MODULE_SCOPES
            for definitions in item._fixtureinfo.name2fixturedefs.values()
        ):
            item.add_marker(pytest.mark.xdist_group(path))
