"""A kill at every system call of an enrolment and a renewal: with either copy alone the device stays in."""

import itertools
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from agent.adapters.identity import Identity
from agent.adapters.identity_files import COPY
from fleet.api.schemas import DeviceIn
from fleet.pki.access import Access, found_pki
from fleet.pki.enrolment import Enrolment
from fleet.pki.folder import PkiFolder
from fleet.registry import add_devices
from fleet.store.store import Store
from tests.fleet.secured import now_unix_ms
from tests.storage import tracer
from tests.storage.kills import SHM, killing, let_pass

pytestmark = [pytest.mark.usefixtures("can_trace"), pytest.mark.system, pytest.mark.slow]

DEVICE, DOOR = "cam-01", "https://controller.lan:8800"
BROKER = "mqtts://broker.lan:8883"
RENEWALS = 1
LOCKED_OUT = 3


class Controller:
    """The real one's side of enrolment, opened anew by each process on what is on its disk."""

    def __init__(self, folder):
        self.store = Store(folder / "fleet.db", folder)
        authority = found_pki(PkiFolder(folder / "pki"), (), now_unix_ms())
        access = Access(
            authority, self.store, now_unix_ms, broker_url=BROKER, reload=lambda: None
        )  # fmt: skip
        self.enrolment = Enrolment(
            authority, self.store, access, now_unix_ms,
            broker_url=BROKER, door_url=DOOR, root=lambda: '{"signed": {}}',
        )  # fmt: skip
        self.entered = folder / "entered"
        """There once an enrolment has returned: from then on no second token may be needed."""

    def enrol(self, identity, token):
        identity.enrol(self.enrolment.enroll(token, identity.new_request(DEVICE)), DOOR)
        self.entered.touch()

    def renew(self, identity):
        asked = identity.renewal(DEVICE)
        signature = bytes.fromhex(asked.signature)
        identity.begin_trial(self.enrolment.renew(asked.certificate, asked.csr, signature))

    def confirm(self, identity):
        told = identity.confirmation()
        self.enrolment.confirm(told.certificate, bytes.fromhex(told.signature))
        identity.confirmed()


def live(root, folder, token):
    """Do what the agent does with its identity, as fast as it can; return the exit code."""
    identity, controller = Identity(root), Controller(folder)
    with identity.held():
        identity.heal()
        if identity.fault() is not None:
            if controller.entered.exists():
                return LOCKED_OUT
            controller.enrol(identity, token)
        for _ in range(RENEWALS):
            if identity.is_on_trial:
                identity.settle_trial()
            controller.confirm(identity)
            controller.renew(identity)
        identity.settle_trial()
        controller.confirm(identity)
    controller.store.close()
    return 0


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A controller's folder, and a token for the device."""
    folder = tmp_path_factory.mktemp("controller")
    controller = Controller(folder)
    with controller.store.write() as tx:
        add_devices(tx, [DeviceIn(id=DEVICE)], now_unix_ms())
    token = controller.enrolment.invite(DEVICE).token
    controller.store.close()
    return folder, token


@pytest.fixture
def place():
    root = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-"))
    yield root
    shutil.rmtree(root)


def lose_first(root):
    shutil.rmtree(root / "identity")


def lose_second(root):
    (root / COPY).unlink(missing_ok=True)


def lose_nothing(_root):
    pass


def kill_at(point, begun, place):
    """Kill a life at its call of this number, lose a copy, live again; return that call, or None."""
    template, token = begun
    root, folder = place / "device", place / "controller"
    root.mkdir()
    shutil.copytree(template, folder)
    ended = tracer.run(
        lambda: live(root, folder, token), tracer.WRITING, root, killing(point)
    )  # fmt: skip
    assert ended.code in (0, -signal.SIGKILL)
    has_entered = (folder / "entered").exists()
    for number, lose in enumerate((lose_nothing, lose_first, lose_second)):
        if lose is not lose_nothing and not has_entered:
            continue  # nothing was acknowledged
        again, controller = place / f"device-{number}", place / f"controller-{number}"
        shutil.copytree(root, again)
        shutil.copytree(folder, controller)
        lose(again)
        code = tracer.run(lambda a=again, c=controller: live(a, c, token), (), again, let_pass).code
        assert code == 0, f"kill at call {point} ({ended.calls[-1]}), then {lose.__name__}: {code}"
    return ended.calls[-1][0] if ended.code else None


def test_a_kill_at_any_call_locks_the_device_out_of_neither_copy(begun, place):
    hit = []
    for point in itertools.count(1):
        folder = place / str(point)
        folder.mkdir()
        if (call := kill_at(point, begun, folder)) is None:
            break
        hit.append(call)
        shutil.rmtree(folder)
    print(f"{len(hit)} kill points, 0 locked out")  # noqa: T201
    assert {"fsync", "rename", "write", "openat to write"} <= set(hit)
    assert len(hit) >= 60
