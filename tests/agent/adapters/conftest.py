import pytest

from agent.core import fetch_plan
from tests.agent.adapters import bundles
from wire.link_memory import MemoryBroker


@pytest.fixture
def make_bundle():
    return bundles.make_bundle


@pytest.fixture
def broker():
    return MemoryBroker()


@pytest.fixture
def controller(broker):
    link = broker.link("controller")
    link.start(lambda _event: None, lambda: None)
    return link


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(fetch_plan, "SILENCE_S", 0.2)
