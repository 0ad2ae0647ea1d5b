"""Who stands in the controller's place while a device is let in: what he learns, and what he leaves there."""

import itertools
import json
import ssl

import pytest

from agent.adapters import door as agent_door
from agent.adapters.identity import Identity
from fleet.pki.authority import CertificateAuthority
from fleet.pki.folder import PkiFolder
from tests.fleet.rogue import Rogue
from tests.fleet.secured import now_unix_ms
from tests.fleet.site import Site
from wire.enrolment import EnrollRequest, JoinToken
from wire.errors import ModelfleetError, PeerError

REMAINDERS = (0, 1, 2)
"""Of a certificate's length by three, on which it depends whether base64 ends in padding."""


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "controller")
    yield made
    made.stop()


@pytest.fixture
def identity(tmp_path):
    return Identity(tmp_path / "state")


def found(folder):
    return CertificateAuthority.found(PkiFolder(folder), [], now_unix_ms())


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """An authority for each remainder, and one of an attacker."""
    made = {}
    for folder in (tmp_path_factory.mktemp("pki") / str(count) for count in itertools.count()):
        authority = found(folder)
        made.setdefault(len(ssl.PEM_cert_to_DER_cert(authority.pem)) % 3, authority)
        if len(made) == len(REMAINDERS):
            return made, found(folder.with_name("evil"))
    raise AssertionError


MIXED = {
    "followed": lambda true, evil: true + evil,
    "preceded": lambda true, evil: evil + true,
    "touching": lambda true, evil: true.strip() + evil,
    "after junk": lambda true, evil: f"{true}junk\n{evil}",
    "between": lambda true, evil: true + evil + true,
}


@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("remainder", REMAINDERS)
def test_a_second_authority_beside_the_true_one_gets_no_token(
    authorities, identity, remainder, mix
):
    true, evil = authorities[0][remainder], authorities[1]
    token = JoinToken("5" * 64, true.fingerprint)
    answers = {"/v1/ca": mix(true.pem, evil.pem).encode(), "/v1/enroll": b"{}"}
    with Rogue(evil.folder.server, answers) as rogue:
        with pytest.raises(ModelfleetError) as caught:
            agent_door.enrol(identity, "cam-01", rogue.url, str(token), named_root=None)
        assert rogue.paths() == ["/v1/ca"]
    assert caught.value.code in ("wrong_authority", "controller_unreachable")


@pytest.mark.parametrize("junk", ["", "\n\n", "junk"])
@pytest.mark.parametrize("remainder", REMAINDERS)
def test_of_an_authority_only_the_certificate_is_kept(authorities, tmp_path, remainder, junk):
    (pki := tmp_path / "controller").mkdir()
    true, evil = authorities[0][remainder], authorities[1]
    (pki / "pki").symlink_to(true.folder.root)
    site = Site(pki)

    def welcome(body):
        asked = EnrollRequest.model_validate_json(body)
        answer = json.loads(site.enrolment.enroll(asked.token, asked.csr).model_dump_json())
        return json.dumps(answer | {"ca": f"{true.pem}{junk}{evil.pem}"}).encode()

    identity, refusal = Identity(tmp_path / "state"), None
    answers = {"/v1/ca": true.pem.encode(), "/v1/enroll": welcome}
    try:
        with Rogue(true.folder.server, answers) as rogue:
            agent_door.enrol(identity, "cam-01", rogue.url, site.token(), named_root=None)
    except PeerError as exc:
        refusal = exc.code
    finally:
        site.stop()
    if refusal is None:
        assert identity.ca.read_text() == true.pem
        assert identity.files().context().cert_store_stats()["x509_ca"] == 1
    else:
        assert (refusal, identity.is_enrolled) == ("wrong_device", False)
