"""What the API is sent that it should not be: every route of it, as the controller describes them."""

import re

import pytest

from tests.spine.models import NAME
from tests.spine.soundness import (
    DEVICE,
    Refusal,
    api,
    check_complaint,
    check_refusal,
    check_sound,
    run,
    situation,
    sound_bed,
)

pytestmark = [pytest.mark.broker, pytest.mark.slow]

JSON = "application/json"
MIB = 2**20
KNOWN = {"device": DEVICE, "model": NAME, "version": "1.0.0", "alias": "champion"}
KNOWN |= {"rollout": "r-1", "name": "admin"}
STREAM = "/v1/watch"


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    with sound_bed(tmp_path_factory.mktemp("api"), bundles) as bed:
        yield bed


@pytest.fixture(scope="module")
def routes(bed):
    """Every route as (method, path, whether it takes JSON)."""
    paths = bed.get("/openapi.json")["paths"]
    found = [
        (method.upper(), path, "requestBody" in route)
        for path, methods in paths.items()
        for method, route in methods.items()
    ]
    assert sum(takes for _, _, takes in found) >= 4
    return found


NUMBERED = r"\{(alert|silence)\}"
"""What is known by a number, not by a name."""


def filled(path, name=None):
    return re.sub(r"\{(\w+)\}", lambda match: name or KNOWN[match[1]], path)


def deep(opening, closing, middle=b""):
    return opening * 100_000 + middle + closing * 100_000


BODIES = {
    "empty": (b"", JSON, Refusal(422, "invalid_request", "body: Field required")),
    "cut": (b"{", JSON, Refusal(400, "body_not_json", "the body is not JSON")),
    "cut-later": (b'{"id": "x"', JSON, Refusal(400, "body_not_json", "line 1")),
    "form": (b"id=x", JSON, Refusal(400, "body_not_json", "the body is not JSON")),
    "no-utf8": (b'{"id": "\xff"}', JSON, Refusal(400, "body_not_json", "utf-8")),
    "utf16": ('{"id": "x"}'.encode("utf-16"), JSON, Refusal(400, "body_not_json", "utf-8")),
    "bom": (b'\xef\xbb\xbf{"id": "x"}', JSON, Refusal(400, "body_not_json", "BOM")),
    "nan": (b'{"soak_s": NaN}', JSON, Refusal(400, "body_not_json", "NaN is not JSON")),
    "infinity": (b'{"soak_s": -Infinity}', JSON, Refusal(400, "body_not_json", "-Infinity")),
    "twice": (b'{"id": "x", "id": "y"}', JSON, Refusal(400, "body_not_json", "the same key twice")),
    "twice-below": (b'{"tags": {"k": "1", "k": "2"}}', JSON,
                    Refusal(400, "body_not_json", "the same key twice")),
    "digits": (b'{"tolerance": ' + b"9" * 5000 + b"}", JSON,
               Refusal(400, "body_not_json", "digits")),
    "deep-arrays": (deep(b"[", b"]"), JSON, Refusal(400, "body_not_json", "nested too deeply")),
    "deep-objects": (deep(b'{"a":', b"}", b"1"), JSON,
                     Refusal(400, "body_not_json", "nested too deeply")),
    "huge": (b'"' + b"x" * 17 * MIB + b'"', JSON, Refusal(413, "body_too_large", "16 MiB")),
    "null": (b"null", JSON, Refusal(422, "invalid_request", "body")),
    "number": (b"7", JSON, Refusal(422, "invalid_request", "body")),
    "arrays": (b"[[]]", JSON, Refusal(422, "invalid_request", "body")),
    "unknown-key": (b'{"colour": "red"}', JSON, Refusal(422, "invalid_request", "body")),
    "form-type": (b'{"id": "x"}', "application/x-www-form-urlencoded",
                  Refusal(415, "body_not_json", "JSON")),
    "text-type": (b'{"id": "x"}', "text/plain", Refusal(415, "body_not_json", "JSON")),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "refusal"), BODIES.values(), ids=BODIES)
def test_no_route_takes_what_is_no_json_of_its_kind(bed, routes, body, kind, refusal):
    before = situation(bed)
    for method, path, takes_json in routes:
        if takes_json:
            headers = {"content-type": kind}
            answer = api(bed).request(method, filled(path), content=body, headers=headers)
            check_refusal(answer, refusal)
    assert situation(bed) == before


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"id": NaN}', deep(b"[", b"]"), b"x" * 17 * MIB],
    ids=["cut", "nan", "deep", "huge"],
)
def test_routes_without_a_body_are_not_led_astray_by_one(bed, routes, body):
    before = situation(bed)
    headers = {"content-type": JSON}
    for method, path, takes_json in routes:
        if takes_json or path == "/v1/bundles":
            continue
        nobody = "987654" if re.search(NUMBERED, path) else "nobody"
        with api(bed).stream(method, filled(path, nobody), content=body, headers=headers) as said:
            if path == STREAM:
                assert (said.status_code, next(said.iter_lines())) == (200, ": watching")
                continue
            said.read()
        with_parameter = "{" in path
        assert said.status_code == (404 if with_parameter else 200), (method, path, said.text)
        if with_parameter:
            assert nobody in said.json()["message"]
    assert situation(bed) == before


ROLLOUT = {"model": NAME, "version": "1.0.0"}
REQUESTS = [
    ("GET", "/v1/devices/nobody", None, Refusal(404, "unknown_device", "'nobody'")),
    ("GET", "/v1/devices/a%00b", None, Refusal(404, "unknown_device", "a\\x00b")),
    ("GET", "/v1/devices/" + "a" * 5000, None, Refusal(404, "unknown_device", "aaa")),
    ("PATCH", "/v1/devices/nobody", {"tags": {}}, Refusal(404, "unknown_device", "'nobody'")),
    ("DELETE", "/v1/devices/nobody", None, Refusal(404, "unknown_device", "'nobody'")),
    ("GET", "/v1/devices/nobody/records", None, Refusal(404, "unknown_device", "'nobody'")),
    ("GET", f"/v1/devices/{DEVICE}/records?limit=0", None,
     Refusal(422, "invalid_request", "limit")),
    ("GET", f"/v1/devices/{DEVICE}/records?limit=1e9", None,
     Refusal(422, "invalid_request", "limit")),
    ("GET", "/v1/devices?match=site", None, Refusal(422, "invalid_match", "'site'")),
    ("GET", "/v1/devices?match=%ff=x", None, Refusal(422, "invalid_match", "key or value")),
    ("GET", "/v1/devices?" + "match=a=b&" * 2000, None, Refusal(422, "invalid_request", "match")),
    ("POST", "/v1/devices", {"id": DEVICE}, Refusal(409, "device_exists", DEVICE)),
    ("POST", "/v1/devices", [{"id": "x"}, {"id": "x"}], Refusal(422, "device_twice", "x")),
    ("POST", "/v1/devices", {"id": "a\n"}, Refusal(422, "invalid_request", "id")),
    ("POST", "/v1/devices", {"id": "x", "tags": {f"k{n}": "v" for n in range(65)}},
     Refusal(422, "invalid_request", "tags")),
    ("GET", "/v1/models/nothing/releases", None, Refusal(404, "unknown_model", "'nothing'")),
    ("POST", "/v1/rollouts", ROLLOUT | {"version": "9.9.9"},
     Refusal(404, "unknown_release", "9.9.9")),
    ("POST", "/v1/rollouts", ROLLOUT | {"model": "no"},
     Refusal(404, "unknown_release", "no:1.0.0")),
    ("POST", "/v1/rollouts", ROLLOUT | {"match": {"site": "moon"}},
     Refusal(409, "no_device_matches", "site=moon")),
    ("POST", "/v1/rollouts", ROLLOUT | {"tolerance": 10**30},
     Refusal(422, "invalid_request", "tolerance")),
    ("POST", "/v1/rollouts", ROLLOUT | {"soak_s": 1e300},
     Refusal(422, "invalid_request", "soak_s")),
    ("POST", "/v1/rollouts", ROLLOUT | {"probation": {"min": 1}},
     Refusal(422, "invalid_request", "probation.min")),
    ("POST", "/v1/rollouts", ROLLOUT | {"guards": {"errors": 1}},
     Refusal(422, "invalid_request", "guards.errors")),
    ("POST", "/v1/rollouts", ROLLOUT | {"phases": ["0%"]},
     Refusal(422, "invalid_request", "phases")),
    ("GET", "/v1/rollouts/r-99", None, Refusal(404, "unknown_rollout", "'r-99'")),
    ("POST", "/v1/rollouts/r-99/abort", None, Refusal(404, "unknown_rollout", "'r-99'")),
    ("POST", "/v1/rollouts/r-1/abort", None, Refusal(409, "rollout_ended", "r-1")),
    ("POST", "/v1/rollbacks", {"model": "nothing"}, Refusal(404, "unknown_model", "nothing")),
    ("GET", f"{STREAM}?since=99999999999999999999", None, Refusal(422, "invalid_request", "since")),
    ("GET", f"{STREAM}?since=-1", None, Refusal(422, "invalid_request", "since")),
    ("GET", "/v1/nothing", None, Refusal(404, "not_found", "/v1/nothing")),
    ("PUT", "/v1/devices", {}, Refusal(405, "method_not_allowed", "PUT")),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "refusal"), REQUESTS)
def test_what_is_not_there_or_cannot_be_is_named(bed, method, path, body, refusal):
    before = situation(bed)
    options = {} if body is None else {"json": body}
    check_refusal(api(bed).request(method, path, **options), refusal)
    assert situation(bed) == before


COMMANDS = [
    (["device", "show", "nobody"], 1, "no device 'nobody'", "fleet device add nobody"),
    (["device", "show", "a b"], 2, "'a b'", "letters"),
    (["releases", "nothing"], 1, "no model 'nothing'", "fleet push"),
    (["rollout", "start", f"{NAME}:9.9.9"], 1, f"{NAME}:9.9.9", "fleet releases"),
    (["rollout", "start", NAME], 2, f"'{NAME}'", "NAME:VERSION"),
    (["rollout", "show", "r-99"], 1, "no rollout 'r-99'", "fleet rollouts"),
    (["rollback", "nothing"], 1, "no model nothing", "fleet releases"),
    (["device", "add", DEVICE], 1, DEVICE, "choose other ids"),
]


@pytest.mark.parametrize(("arguments", "code", "says", "hint"), COMMANDS)
def test_a_command_says_what_is_not_there_and_what_to_do(bed, arguments, code, says, hint):
    before = situation(bed)
    check_complaint(run(bed.fleet_dir, "fleet", *arguments), says, hint, code=code)
    assert situation(bed) == before


def test_after_all_of_that_the_fleet_works(bed):
    check_sound(bed)
