"""A controller in a thief's hands answers enrolments with a root of trust of his own: what he signs never runs.

The controller is the real one, over its own listener; its authority and its tokens are true, as a thief has them.
"""

import contextlib
import hashlib
import logging
import shutil

import pytest

from agent.adapters import door
from agent.adapters.bootstrap import is_root_on_trust, read_bootstrap
from agent.adapters.identity import Identity
from agent.adapters.identity_files import COPY, PLACE, ROOT, Place, place_text
from agent.adapters.state_sqlite import SqliteStateStore
from agent.adapters.trust import TrustStore
from agent.config import load_config
from agent.doctor import examine
from agent.status import read_status
from tests.conformance.repository import Repository
from tests.fleet.secured import now_unix_ms
from tests.fleet.site import Site
from wire.enrolment import parse_token
from wire.errors import ConfigError, ModelfleetError, PeerError

DEVICE, MODEL = "cam-01", "digits"
ROLE = f"model-{MODEL}"
ON_TRUST = "taken on trust from the controller"


def founded():
    """Return a fleet's signed metadata, with a release of a model."""
    repository = Repository()
    repository.add_director()
    repository.add_model(MODEL)
    repository.release(MODEL, "1.0.0", 1)
    repository.publish_all(ROLE, "targets")
    repository.text = repository.bootstrap.decode()
    repository.digest = hashlib.sha256(repository.bootstrap).hexdigest()
    return repository


@pytest.fixture(scope="module")
def own():
    return founded()


@pytest.fixture(scope="module")
def thief():
    return founded()


class Machine:
    """A device with its configuration, beside a controller that changes hands."""

    def __init__(self, folder, own, thief):
        self.folder, self.own, self.thief = folder, own, thief
        self.site = Site(folder / "controller", own.text)
        self.file = folder / "agent.toml"
        self.file.write_text(f'[device]\nid = "{DEVICE}"\n\n[state]\ndir = "state"\n')
        self.identity = Identity(folder / "state")

    @property
    def config(self):
        return load_config(self.file)

    def name_root(self, data):
        """Set `[trust] root`, as a person does."""
        (self.folder / "named.json").write_bytes(data)
        with self.file.open("a") as file:
            file.write('\n[trust]\nroot = "named.json"\n')

    def token(self, pin=""):
        """Return a new token as the operator's command prints it."""
        return f"{self.site.token()}{pin and '_'}{pin}"

    def enrol(self, token):
        door.enrol(
            self.identity, DEVICE, self.site.url, token, named_root=self.config.trust.root
        )  # fmt: skip

    def is_refused(self, token, code="wrong_root"):
        with pytest.raises(ModelfleetError) as caught:
            self.enrol(token)
        assert caught.value.code == code
        assert caught.value.hint
        return caught.value

    def believes(self, repository):
        """Whether a release that is signed there could run here."""
        with contextlib.closing(SqliteStateStore(self.folder / "marks.db")) as marks:
            root = self.folder / f"trust-{repository.digest[:8]}"
            store = TrustStore(root, lambda: read_bootstrap(self.config), marks, device=DEVICE)
            try:
                view = store.refresh(repository.fetch, [MODEL], now_unix_ms=now_unix_ms())
            except (PeerError, ConfigError):
                return False
            return "1.0.0" in view.models[MODEL].releases

    def lose(self, *names):
        """Lose files of the identity in both copies."""
        (self.folder / "state" / COPY).unlink(missing_ok=True)
        for name in names:
            (self.identity.folder / name).unlink()


@pytest.fixture
def machine(tmp_path, own, thief):
    made = Machine(tmp_path, own, thief)
    yield made
    made.site.stop()


def test_a_first_enrolment_takes_the_pinned_root_and_no_other(machine, own, thief):
    token = machine.token(own.digest)
    machine.site.root = thief.text
    machine.is_refused(token)
    assert not machine.identity.is_enrolled
    assert not machine.believes(thief)
    machine.site.root = ""
    assert "no root of trust" in str(machine.is_refused(token))
    machine.site.root = own.text
    machine.enrol(token)  # it has done nothing yet
    assert machine.believes(own)
    assert not machine.believes(thief)


def keep_all(_machine):
    pass


def lose_use(machine):
    shutil.rmtree(machine.identity.folder)


def lose_copy(machine):
    machine.lose()


def lose_root(machine):
    machine.lose(ROOT)


def lose_digest(machine):
    machine.lose(PLACE)


def be_of_before(machine):
    """Have an identity as agents wrote it that kept no digests and no copy."""
    place = machine.identity.place()
    (machine.identity.folder / PLACE).write_text(
        place_text(Place(place.device, place.broker_url, place.door_url))
    )
    machine.lose()


LOSSES = (keep_all, lose_use, lose_copy, lose_root, lose_digest, be_of_before)


@pytest.mark.parametrize("is_pinned", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_device_that_enrols_again_keeps_its_root(machine, own, thief, loss, is_pinned):
    pin = own.digest if is_pinned else ""
    machine.enrol(machine.token(pin))
    loss(machine)
    machine.site.root = thief.text
    error = machine.is_refused(machine.token(pin))
    assert own.digest[:12] in str(error)
    assert thief.digest[:12] in str(error)
    assert not machine.believes(thief)
    machine.site.root = own.text
    machine.enrol(machine.token())
    assert machine.believes(own)
    assert machine.identity.fault() is None
    assert is_root_on_trust(machine.config) is (
        not is_pinned or loss in (lose_digest, be_of_before)
    )


def test_with_both_copies_gone_the_pin_counts(machine, own, thief):
    machine.enrol(machine.token(own.digest))
    shutil.rmtree(machine.identity.folder)
    machine.lose()
    machine.site.root = thief.text
    machine.is_refused(machine.token(own.digest))
    assert not machine.believes(thief)
    machine.site.root = own.text
    machine.enrol(machine.token(own.digest))
    assert machine.believes(own)


@pytest.mark.parametrize("at", [10, 500, 900])
def test_a_damaged_root_that_no_digest_tells_of_keeps_nobody_out(machine, own, at):
    machine.enrol(machine.token())
    machine.lose(PLACE)
    data = bytearray(own.bootstrap)
    data[at] ^= 1
    machine.identity.root.write_bytes(data)
    machine.enrol(machine.token(own.digest))
    assert machine.believes(own)


def test_without_an_answered_root_the_one_here_stays(machine, own):
    machine.enrol(machine.token(own.digest))
    machine.site.root = ""
    machine.enrol(machine.token())
    assert machine.believes(own)
    assert machine.identity.fault() is None
    machine.lose(ROOT)
    machine.is_refused(machine.token())  # its digest is known; to forget it would let any other in


def test_a_root_that_a_person_named_counts_before_all(machine, own, thief):
    machine.site.root = thief.text
    machine.enrol(machine.token())  # by an agent of before, say
    assert machine.believes(thief)
    machine.name_root(own.bootstrap)
    assert machine.believes(own)
    assert not machine.believes(thief)
    machine.is_refused(machine.token())
    machine.is_refused(machine.token(thief.digest))
    machine.site.root = own.text
    machine.enrol(machine.token())
    assert machine.identity.root.read_bytes() == own.bootstrap
    assert not is_root_on_trust(machine.config)


def test_a_named_root_that_cannot_be_read_is_replaced_by_no_other(machine, own):
    machine.enrol(machine.token(own.digest))
    machine.name_root(b"\xff")
    machine.is_refused(machine.token(), "trust_root_unreadable")
    (machine.folder / "named.json").unlink()
    machine.is_refused(machine.token(), "trust_root_unreadable")
    with pytest.raises(ConfigError):
        read_bootstrap(machine.config)


def test_a_device_changes_fleets_when_a_person_deletes_what_the_error_names(machine, own, thief):
    machine.enrol(machine.token(own.digest))
    machine.site.root = thief.text  # here, simply another fleet
    token = machine.token(thief.digest)
    hint = machine.is_refused(token).hint
    assert f"delete {machine.identity.folder} and {COPY} beside it" in hint
    shutil.rmtree(machine.identity.folder)
    machine.lose()
    machine.enrol(token)  # it was not spent
    assert machine.believes(thief)


@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_root_that_was_taken_on_trust_is_told_of(machine, own, caplog, is_pinned):
    caplog.set_level(logging.WARNING)
    machine.enrol(machine.token(own.digest if is_pinned else ""))
    SqliteStateStore(machine.folder / "state" / "state.db").close()
    (finding,) = [f for f in examine(machine.file) if f.subject == "root of trust"] or [None]
    status = read_status(machine.config)
    told = (ON_TRUST in caplog.text, finding is not None, ON_TRUST in status.to_text())
    assert told == (not is_pinned,) * 3
    assert f'"root_on_trust": {"false" if is_pinned else "true"}' in status.to_json()
    if not is_pinned:
        assert "fleet device token NAME" in finding.remedy
        machine.enrol(machine.token(own.digest))
        assert not is_root_on_trust(machine.config)


def test_the_controller_is_not_told_the_pin(own):
    token = parse_token(f"mfjoin_{'1' * 64}_{'2' * 64}_{own.digest}")
    assert token.root == own.digest
    assert own.digest not in token.for_controller
    assert parse_token(token.for_controller).digest == token.digest
    assert str(token).endswith(own.digest)
