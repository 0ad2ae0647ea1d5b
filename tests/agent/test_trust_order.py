"""Signed metadata that comes in pieces, in any order, with pauses between, and with lies among it: nothing is lost."""

import itertools
import time

import numpy as np
import pytest

from agent.core.trust import Allowed
from tests.agent.test_trust import MODEL, ROLE, Device, desired, published
from wire import topics


@pytest.fixture
def repository():
    return published()


@pytest.fixture
def device(repository, tmp_path):
    """A device that has all of the first publication on its disk."""
    device = Device(tmp_path, repository)
    device.hear(desired(repository))
    device.deliver()
    yield device
    device.marks.close()
    device.link.stop()


def publish_next(repository, number):
    """Sign one more release of the model, and documents that only new roots lead to."""
    manifest = repository.release(MODEL, f"{number}.0.0", number)
    for role in ("timestamp", ROLE):
        repository.rotate(role)
    repository.publish("root")
    repository.publish_all(ROLE, "targets")
    return manifest


@pytest.mark.parametrize(
    "order", [*itertools.permutations([ROLE, "targets", "snapshot", "timestamp"])]
)
def test_each_order_brings_a_device_with_older_documents_up_to_date(repository, device, order):
    manifest = repository.release(MODEL, "2.0.0", 2)
    repository.publish_all(ROLE, "targets")
    for role in order:
        device.deliver(role)
    assert device.install("2.0.0", manifest) == Allowed()
    assert device.alarms == []
    assert device.trust._delivered._documents == {}


def test_nothing_is_lost_of_documents_that_come_in_any_order_with_refreshes_between(
    repository, device
):
    seed = time.time_ns()
    print(f"seed {seed}")  # noqa: T201 - to replay
    chance = np.random.default_rng(seed)
    seen = set()
    for number in range(2, 18, 2):
        coming = {}
        for each in (number, number + 1):  # the second may overtake what is left of the first
            manifest = publish_next(repository, each)
            for text, payload in repository.messages().items():
                if payload not in seen:
                    coming.setdefault(text, []).append(payload)
                    seen.add(payload)
        while coming:
            text = str(chance.choice(list(coming)))
            device.trust.deliver(topics.parse(text), coming[text].pop(0))
            coming = {text: payloads for text, payloads in coming.items() if payloads}
            if chance.random() < 0.7:
                device.refresh()
        device.refresh()
        assert device.install(f"{number + 1}.0.0", manifest) == Allowed()
    assert device.trust._view.roles["root"].version == repository.root.version
    assert device.trust._delivered._documents == {}


def test_what_the_broker_brought_while_the_controller_was_asked_is_not_forgotten(
    repository, device
):
    old = [(topics.parse(text), payload) for text, payload in repository.messages().items()]
    manifest = repository.release(MODEL, "2.0.0", 2)
    repository.publish_all(ROLE)
    for text, payload in repository.messages().items():
        device.trust.deliver(topics.parse(text), payload)
    device.trust.take(old)
    device.refresh()
    assert device.trust.due_s < time.monotonic() + 30
    device.refresh()
    assert device.install("2.0.0", manifest) == Allowed()


def test_each_document_that_a_broker_invented_ends_one_refresh_at_most(repository, device):
    lie = b'{"signed": {"version": %d}, "signatures": []}'
    invented = [
        (topics.Trust("root-2"), 2), (topics.Trust("timestamp"), 10**8),
        (topics.Trust("snapshot"), repository.snapshot.version), (topics.ModelTrust(MODEL), 1),
    ]  # fmt: skip
    true = [(topics.parse(text), payload) for text, payload in repository.messages().items()]
    for _ in range(3):
        for topic, version in invented:
            device.trust.deliver(topic, lie % version)
            device.refresh()
        for _ in invented:
            device.trust.take(true)
            device.refresh()
            device.refresh()
        assert device.trust._failed == ""
        assert device.trust._delivered._documents == {}
