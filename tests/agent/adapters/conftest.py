import pytest

from tests.agent.adapters import bundles


@pytest.fixture
def make_bundle():
    return bundles.make_bundle
