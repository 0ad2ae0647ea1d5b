"""Signed metadata from the controller's real listener, where the broker brings none, or lies."""

import json
import queue
import re
import time

import pytest

from agent.adapters import door
from agent.adapters.identity import Identity
from agent.adapters.metadata_pull import MetadataPulls
from agent.adapters.second_source import SecondSource
from agent.adapters.state_sqlite import SqliteStateStore
from agent.adapters.trust import TrustStore
from agent.core.metadata_pull import PATIENCE_S
from agent.core.states import Assignment, DeviceState, Fetching, Ref
from agent.core.trust import Allowed, Waits
from agent.trust import Trust
from tests.conformance.repository import Repository, direct
from tests.fleet.site import Site
from wire import topics
from wire.link_memory import MemoryBroker
from wire.messages import Desired, DesiredModel
from wire.trust import model_role

DEVICE, MODEL = "cam-01", "digits"
ROLE = model_role(MODEL)


class Fleet:
    """A controller whose listener has signed metadata, and a device whose broker has none."""

    def __init__(self, root):
        self.site = Site(root / "controller")
        self.repository = Repository()
        self.director = self.repository.add_director()
        self.repository.add_model(MODEL)
        self.manifest = self.repository.release(MODEL, "1.0.0", 1)
        self.repository.publish_all(ROLE, "targets")
        self.publish()
        identity = Identity(root / "state")
        door.enrol(identity, DEVICE, self.site.url, self.site.token(), named_root=None)
        self.told = queue.Queue()
        self.alarms = []
        self.state = DeviceState()
        self.pulls = MetadataPulls(lambda: SecondSource(identity), self.told.put)
        self.marks = SqliteStateStore(root / "state.db")
        store = TrustStore(
            root / "trust", lambda: self.repository.bootstrap, self.marks, device=DEVICE
        )
        link = MemoryBroker().link(DEVICE)
        link.start(lambda _event: None, lambda: None)
        self.trust = Trust(
            store, self.marks, link, device=DEVICE, pull=self.pulls.ask,
            alarm=lambda code, _detail: self.alarms.append(code),
        )  # fmt: skip
        self.trust.start([])
        self.now_s = time.monotonic()

    def stop(self):
        self.pulls.stop()
        self.marks.close()
        self.site.stop()

    def publish(self):
        """Have the controller's store hold what the repository has signed so far."""
        with self.site.store.write() as tx:
            for name, body in self.repository.files.items():
                role = re.fullmatch(r"(?:\d+\.)?(.+)\.json", name)[1]
                version = json.loads(body)["signed"]["version"]
                if tx.trust.get(role, version) is None:
                    tx.trust.add(role, version, body.decode())

    def desired(self, generation=1, **more):
        model = DesiredModel(name=MODEL, version="1.0.0", manifest=self.manifest, index="b" * 64)
        fields = {"device": DEVICE, "generation": generation, "models": (model,)} | more
        return direct(self.director, Desired(**fields))

    def tick(self, seconds=0.0):
        self.now_s += seconds
        self.trust.tick(self.state, self.now_s)

    def pulled(self):
        """Let what the controller gives arrive; return the topics, and a desired state that goes on."""
        documents = self.told.get(timeout=120).documents
        self.trust.take(documents)
        return [topic.text for topic, _ in documents], self.trust.refresh(self.state)

    def assignment(self):
        return Assignment(MODEL, Ref("1.0.0", self.manifest, "b" * 64))

    def install(self):
        return self.trust.authorise(self.assignment())


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


def test_what_waits_for_metadata_gets_it_from_the_controller(fleet):
    assert fleet.trust.open(fleet.desired(), fleet.state) is None
    fleet.tick()
    fleet.tick(PATIENCE_S - 0.1)
    assert fleet.pulls._thread is None, "the broker comes first"
    fleet.tick(0.2)
    came, desired = fleet.pulled()
    assert came == [f"fleet/v1/trust/{role}" for role in ("targets", "snapshot", "timestamp")]
    assert desired.generation == 1
    assert isinstance(fleet.install(), Waits), "nobody knew yet which models are assigned"
    fleet.state = DeviceState(generation=1, update=Fetching(fleet.assignment()))
    fleet.tick()
    fleet.tick(2 * PATIENCE_S)
    came, _ = fleet.pulled()
    assert topics.ModelTrust(MODEL).text in came
    assert fleet.install() == Allowed()
    assert fleet.alarms == []


def test_roots_are_followed_one_by_one(fleet):
    for role in ("timestamp", "snapshot", "targets"):
        fleet.repository.rotate(role)
        fleet.repository.publish("root")
    fleet.repository.publish_all(ROLE, "targets")
    fleet.publish()
    fleet.trust.open(fleet.desired(), fleet.state)
    fleet.tick()
    fleet.tick(PATIENCE_S)
    came, desired = fleet.pulled()
    assert came[:3] == [f"fleet/v1/trust/root-{number}" for number in (2, 3, 4)]
    assert desired.generation == 1
    assert fleet.trust._view.roles["root"].version == 4


def test_metadata_that_a_broker_forged_gives_way_to_the_true(fleet):
    forged = Repository()
    for text, payload in forged.messages().items():
        fleet.trust.deliver(topics.parse(text), payload)
    assert fleet.trust.refresh(fleet.state) is None
    assert fleet.alarms == ["trust_signature"]
    fleet.tick()
    fleet.tick(PATIENCE_S)
    fleet.pulled()
    assert fleet.trust._view.snapshot == fleet.repository.snapshot.version
    fleet.tick(PATIENCE_S)
    fleet.tick(1000 * PATIENCE_S)
    assert fleet.told.empty(), "nothing is wanting any more"


def test_a_later_root_that_a_broker_invented_keeps_out_nothing_that_is_true(fleet):
    fleet.trust.deliver(topics.Trust("root-2"), b'{"signed": {"version": 2}, "signatures": []}')
    assert fleet.trust.refresh(fleet.state) is None
    assert fleet.trust.open(fleet.desired(), fleet.state) is None
    fleet.tick()
    fleet.tick(PATIENCE_S)
    fleet.trust.deliver(topics.Trust("root-2"), b'{"signed": {"version": 2}, "signatures": [1]}')
    _, desired = fleet.pulled()
    assert desired.generation == 1
    assert fleet.trust._view.snapshot == fleet.repository.snapshot.version


def test_the_controller_is_believed_no_more_than_the_broker(fleet):
    with fleet.site.store.write() as tx:
        tx.trust.add("timestamp", 99, json.dumps({"signed": {"version": 99}, "signatures": []}))
        tx.trust.add("snapshot", 99, "no JSON at all")
    fleet.trust.open(fleet.desired(), fleet.state)
    fleet.tick()
    fleet.tick(PATIENCE_S)
    _, desired = fleet.pulled()
    assert desired is None
    assert fleet.trust._view is None
    assert fleet.alarms == ["trust_malformed"]


@pytest.mark.parametrize("fault", ["away", "put out"])
def test_a_controller_that_gives_nothing_is_asked_again_later(fleet, fault, caplog):
    if fault == "away":
        fleet.site.stop()
    else:
        fleet.site.enrolment.revoke(DEVICE)
    fleet.trust.open(fleet.desired(), fleet.state)
    threads = []
    for _ in range(600):
        fleet.tick(1.0)
        if fleet.pulls._thread is not None and fleet.pulls._thread not in threads:
            threads.append(fleet.pulls._thread)
            threads[-1].join(30)
    assert 3 <= len(threads) <= 6
    assert fleet.told.empty()
    assert "cannot be had from the controller" in caplog.text
