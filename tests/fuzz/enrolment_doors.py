"""The doors of enrolment: what device and controller say over HTTPS, and what the device keeps of it."""

from functools import cache

from agent.adapters import https, ngclient
from agent.adapters.identity import Identity
from fleet.pki import authority
from tests.fuzz.device_doors import folder, signed_by_a_stranger
from tests.fuzz.door import Door
from tests.fuzz.fleet_doors import ERROR_SCHEMA, _authority
from tests.fuzz.samples import matching, sampled_json
from wire import codec, enrolment
from wire.errors import PeerError, StorageError

KINDS = (
    enrolment.EnrollRequest,
    enrolment.RenewRequest,
    enrolment.ConfirmRequest,
    enrolment.Welcome,
    enrolment.Confirmed,
    enrolment.UnknownDevice,
)
URL = "https://c/"
NOW_UNIX_MS = 1_700_000_000_000


def doors():
    yield from map(_message, KINDS)
    yield Door(
        "join token",
        lambda data: enrolment.parse_token(data.decode("utf-8", "replace")),
        (PeerError,),
        lambda random: "_".join(
            [
                enrolment.TOKEN_PREFIX,
                *(matching("[0-9a-f]{64}", random) for _ in range(2 + random.randrange(2))),
            ]
        ).encode(),
        lambda token: str(token).encode(),
        ("wire.enrolment",),
    )
    yield Door(
        "refusal of the controller",
        lambda data: (refusal := https._refusal(URL, 422, data), str(refusal))[1],
        (),
        sampled_json(ERROR_SCHEMA),
        None,  # written by the controller
        ("agent.adapters.https",),
    )
    yield Door(
        "certificate that came",
        _paired,
        (PeerError,),
        lambda _random: _certificate().encode(),
        None,  # becomes a file with the device's key
        ("agent.adapters.identity",),
        weight=0.3,
    )
    yield Door(
        "root of trust here",
        ngclient.is_root,
        (),
        lambda _random: signed_by_a_stranger().files["1.root.json"],
        None,  # written by the fleet
        ("agent.adapters.ngclient",),
        weight=0.3,
    )
    yield Door(
        "certificate in use",
        _in_use,
        (StorageError,),
        lambda _random: _identity()._paired(_welcome(_certificate())),
        None,  # written by the device itself
        ("agent.adapters.identity",),
        weight=0.3,
    )


def _message(kind):
    return Door(
        kind.__name__,
        lambda data: codec.decode(kind, data, max_bytes=enrolment.MAX_ANSWER_BYTES),
        (PeerError,),
        sampled_json(kind.model_json_schema()),
        codec.encode,
        ("wire.codec",),
    )


@cache
def _identity():
    identity = Identity(folder())
    identity.new_request("cam-01")
    return identity


@cache
def _certificate():
    request = authority.read_request(_identity().new_request("cam-01"))
    return _authority().issue(request, NOW_UNIX_MS).pem


def _welcome(certificate):
    return enrolment.Welcome.model_construct(
        device="cam-01", certificate=certificate, ca="", root="", broker_url=""
    )


def _paired(data):
    return _identity()._paired(_welcome(data.decode("utf-8", "replace")))


def _in_use(data):
    _identity()._current.write_bytes(data)
    return _identity().span()
