"""A device's identity on a disk that loses bits, files and both copies; and what a kill leaves of it."""

import itertools
import stat

import numpy as np
import pytest

from agent.adapters.durable import sealed, unsealed
from agent.adapters.identity import Identity
from agent.adapters.identity_files import CA, COPY, CURRENT, FILES, PLACE, ROOT, read_pair
from fleet.pki.authority import CertificateAuthority, read_request
from fleet.pki.folder import PkiFolder
from tests.fleet.secured import now_unix_ms
from wire.enrolment import Welcome
from wire.errors import StorageError

DEVICE, URL, DOOR = "cam-01", "mqtts://broker.lan:8883", "https://controller.lan:8800"
ROOT_TEXT = '{"signed": {"of": "a fleet with ünïcode"}}\r\n'
FLIPS = 30


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return found(tmp_path_factory.mktemp("pki"))


def found(folder):
    return CertificateAuthority.found(PkiFolder(folder), [], now_unix_ms())


def welcome(authority, identity, root=ROOT_TEXT):
    request = read_request(identity.new_request(DEVICE))
    issued = authority.issue(request, now_unix_ms())
    return Welcome(
        device=DEVICE, certificate=issued.pem, ca=authority.pem, root=root, broker_url=URL
    )


@pytest.fixture
def identity(tmp_path, authority):
    made = Identity(tmp_path / "state")
    made.enrol(welcome(authority, made), DOOR)
    return made


def renew(identity, authority):
    identity.begin_trial(welcome(authority, identity))
    identity.settle_trial()


def copy_of(identity):
    return identity.folder.with_name(COPY)


def meaning(identity):
    """Return what an identity comes to, whatever its bytes are."""
    key, certificate = read_pair(identity.folder / CURRENT)
    identity.files().context()
    return (
        key.private_numbers(),
        certificate.serial_number,
        identity.place(),
        identity.ca.read_bytes(),
        identity.root.read_bytes() if identity.root.exists() else None,
    )


def flip(path, chance):
    data = bytearray(path.read_bytes())
    data[chance.integers(len(data))] ^= 1 << int(chance.integers(8))
    path.write_bytes(data)


def truncate(path, chance):
    data = path.read_bytes()
    path.write_bytes(data[: int(chance.integers(1, len(data)))])


def empty(path, _chance):
    path.write_bytes(b"")


def remove(path, _chance):
    path.unlink()


def spare(_path, _chance):
    pass


HARMS = (flip, truncate, empty, remove)


def test_both_copies_are_for_their_owner_alone(identity):
    for path in (copy_of(identity), identity.folder / CURRENT):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", FILES)
def test_any_file_comes_back_from_the_second_copy(identity, name, harm):
    good, chance = meaning(identity), np.random.default_rng(FILES.index(name))
    for _ in range(FLIPS if harm in (flip, truncate) else 1):
        harm(identity.folder / name, chance)
        found, restored = identity.fault(), identity.heal()
        assert restored is not None or harm is flip, "damaged, and nobody saw it"
        if found is not None:
            assert found.code == "identity_unreadable"
            assert name in str(found)
        if restored:
            assert f"identity: {name} (" in restored
            assert restored.endswith("; put back from identity.copy")
        assert identity.fault() is None
        assert meaning(identity) == good
        assert identity.heal() is None
    aside = sorted(identity.folder.glob("*.unreadable-*"))
    assert len(aside) <= 3
    assert bool(aside) == (harm is not remove)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("names", [*itertools.combinations(FILES, 2)], ids="-".join)
def test_any_two_files_come_back(identity, names, harm):
    good, chance = meaning(identity), np.random.default_rng(7)
    for name in names:
        harm(identity.folder / name, chance)
    identity.heal()
    assert identity.fault() is None
    assert meaning(identity) == good


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_copy_is_written_anew(identity, harm):
    good = copy_of(identity).read_bytes()
    for seed in range(20):
        harm(copy_of(identity), np.random.default_rng(seed))
        assert not identity.has_copy
        assert (identity.heal(), identity.fault()) == (None, None)
        identity.keep()
        assert copy_of(identity).read_bytes() == good


@pytest.mark.parametrize("copy_harm", HARMS)
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", FILES)
def test_with_both_damaged_it_says_so_and_is_never_a_wrong_one(identity, name, harm, copy_harm):
    good = meaning(identity)
    kept = {path: path.read_bytes() for path in (identity.folder / name, copy_of(identity))}
    for seed in range(6):
        for path, data in kept.items():
            path.write_bytes(data)
        chance = np.random.default_rng(seed)
        harm(identity.folder / name, chance)
        copy_harm(copy_of(identity), chance)
        assert identity.heal() is None
        fault = identity.fault()
        if fault is None:  # of a bit that means nothing, or of the root of trust
            root = identity.root.read_bytes() if identity.root.exists() else None
            assert name == ROOT or harm is flip
            assert meaning(identity) == (*good[:-1], root)
            assert root in (None, good[-1]), "a root of trust that nobody gave"
            continue
        assert fault.code == "identity_lost"
        assert name in str(fault)
        assert "fleet device token" in fault.hint
        with pytest.raises(StorageError):
            identity.keep()
        with pytest.raises(StorageError):
            identity.confirmation()


def test_a_lost_identity_is_replaced_by_a_new_enrolment(identity, authority):
    for name in FILES:
        (identity.folder / name).write_bytes(b"\0")
    copy_of(identity).unlink()
    assert identity.fault().code == "identity_lost"
    identity.enrol(welcome(authority, identity), DOOR)
    assert identity.fault() is None
    assert identity.has_copy


def test_with_everything_gone_there_are_no_traces(identity):
    assert identity.has_traces
    for name in FILES:
        (identity.folder / name).unlink()
    assert identity.has_traces
    copy_of(identity).unlink()
    assert not identity.has_traces


def test_a_lost_root_of_trust_keeps_no_certificate_from_the_second_copy(identity, authority):
    copy_of(identity).unlink()
    identity.root.write_bytes(b"{}")
    assert identity.heal() is None
    assert identity.fault() is None
    assert not identity.root.exists(), "a root of trust that has changed"
    renew(identity, authority)
    identity.confirmation()
    (identity.folder / CURRENT).unlink()
    before = identity.place()
    assert CURRENT in identity.heal()
    assert identity.fault() is None
    assert identity.place() == before


def test_a_copy_that_is_one_renewal_behind_brings_back_a_certificate_that_is_not_retired(
    identity, authority
):
    former = meaning(identity)[1]
    renew(identity, authority)  # and the power fails before the copy is written
    (identity.folder / CURRENT).write_bytes(b"")
    identity.heal()
    assert meaning(identity)[1] == former
    assert identity.is_unconfirmed, "the controller would not be told which one is left"


def test_nothing_is_confirmed_that_the_second_copy_does_not_hold(identity, authority):
    for _ in range(3):
        renew(identity, authority)
        confirmed = identity.confirmation().certificate
        newest = meaning(identity)
        for name in FILES:
            (identity.folder / name).unlink()
        identity.heal()
        assert meaning(identity) == newest
        assert confirmed in (identity.folder / CURRENT).read_text()


def test_the_first_copy_wins_while_it_is_whole(identity, authority):
    renew(identity, authority)
    newest = meaning(identity)
    assert identity.heal() is None
    assert meaning(identity) == newest
    (identity.folder / PLACE).unlink()
    identity.heal()
    assert meaning(identity) == newest, "the certificate went back with the broker's address"


def test_an_enrolment_in_another_fleet_that_was_cut_off_leaves_the_one_before(
    identity, tmp_path, authority
):
    good, other = meaning(identity), Identity(tmp_path / "other")
    other.enrol(welcome(found(tmp_path / "pki"), other, root=""), DOOR)
    for names in itertools.accumulate([(CA,), (ROOT,), (PLACE,)]):
        for name in names:
            path = other.folder / name
            target = identity.folder / name
            target.write_bytes(path.read_bytes()) if path.exists() else target.unlink()
        assert "put back" in identity.heal()
        assert meaning(identity) == good
    (identity.folder / CURRENT).write_bytes((other.folder / CURRENT).read_bytes())
    assert "device.pem (Issuer certificate subject does not match" in identity.heal()
    assert meaning(identity) == good


def test_a_key_of_another_certificate_is_found(identity, authority):
    data = (identity.folder / CURRENT).read_text()
    renew(identity, authority)
    mark = "-----END PRIVATE KEY-----\n"
    mixed = data.partition(mark)[0] + mark + (identity.folder / CURRENT).read_text().partition(mark)[2]  # fmt: skip
    (identity.folder / CURRENT).write_text(mixed)
    assert "its key is not that of its certificate" in identity.heal()
    assert (identity.folder / CURRENT).read_text() == data


def test_a_damaged_new_certificate_is_left_out(identity, authority):
    good = meaning(identity)
    for seed in range(40):
        identity.begin_trial(welcome(authority, identity))
        flip(identity.folder / "new.pem", np.random.default_rng(seed))
        assert identity.heal() is None
        identity.files().context()
        if identity.is_on_trial:
            assert read_pair(identity.folder / "new.pem")[1].serial_number != good[1]
        identity.drop_trial()


def test_an_identity_of_an_agent_that_kept_one_copy_goes_on(identity):
    place = identity.folder / PLACE
    place.write_text(
        f'{{\n "device": "{DEVICE}",\n "broker_url": "{URL}",\n "door_url": "{DOOR}"\n}}'
    )
    copy_of(identity).unlink()
    assert (identity.heal(), identity.fault()) == (None, None)
    identity.keep()
    place.unlink()
    identity.heal()
    assert identity.place().broker_url == URL


@pytest.mark.parametrize("text", ["", "x", "{", "[]", '{"device": 1}', '{"a": "b"}', "ä" * 99])
def test_what_is_no_copy_is_none(identity, text):
    for body in (text, sealed(0, text)):
        copy_of(identity).write_text(body)
        (identity.folder / CURRENT).unlink(missing_ok=True)
        identity.heal()
        assert identity.fault().code in ("identity_lost", "identity_unreadable")


def test_who_waits_for_the_lock_is_told(identity):
    with identity.held():
        with pytest.raises(StorageError) as caught, identity.held(0.3):
            pass
        assert caught.value.code == "identity_in_use"
    with identity.held():
        pass


def test_the_copy_says_what_it_holds(identity):
    assert all(f'"{name}"' in unsealed(copy_of(identity).read_text())[1] for name in FILES)
