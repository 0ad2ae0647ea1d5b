"""What an application asks a device that cannot be answered, over TCP; and one over its unix socket."""

import http.client
import json
import socket
import time
import tomllib

import pytest

from tests.spine.models import N_FEATURES, NAME
from tests.spine.processes import until
from tests.spine.soundness import DEVICE, check_sound, sound_bed

pytestmark = [pytest.mark.broker, pytest.mark.slow]

INFER = f"/v2/models/{NAME}/infer"
MIB = 2**20
ROW = [1.0, 2.0, 3.0, 4.0]
TENSOR = {"name": "X", "shape": [1, N_FEATURES], "datatype": "FP32", "data": ROW}


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    with sound_bed(tmp_path_factory.mktemp("infer"), bundles) as bed:
        yield bed


@pytest.fixture
def device(bed):
    return bed.devices[DEVICE]


def asked(device, body, *, method="POST", path=INFER, headers=None):
    """Return status and body of the answer to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", device.port, timeout=120)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def request(**changes):
    return json.dumps({"inputs": [TENSOR | changes]}).encode()


def more(**keys):
    return json.dumps({"inputs": [TENSOR], **keys}).encode()


GOOD = request()
DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = {
    "empty": (b"", 400, "truncated"),
    "cut": (GOOD[:-5], 400, "no inference request"),
    "text": (b"hello", 400, "malformed"),
    "utf16": (GOOD.decode().encode("utf-16"), 400, "malformed"),
    "no-utf8": (GOOD.replace(b'"X"', b'"\xff"'), 400, "utf-8"),
    "array": (b"[]", 400, "Expected `object`, got `array`"),
    "null": (b"null", 400, "Expected `object`, got `null`"),
    "no-inputs": (b"{}", 400, "`inputs`"),
    "empty-inputs": (b'{"inputs": []}', 400, "inputs is empty"),
    "deep": (DEEP, 400, "no inference request"),
    "deep-data": (GOOD.replace(json.dumps(ROW).encode(), DEEP), 400, "no inference request"),
    "huge": (b" " * 17 * MIB, 413, "16777216 bytes"),
    "inputs-twice": (b'{"inputs": [], ' + GOOD[1:], 400, "'inputs' twice"),
    "name-twice": (GOOD.replace(b'"name"', b'"name": "Y", "name"'), 400, "'name' twice"),
    "tensor-twice": (json.dumps({"inputs": [TENSOR, TENSOR]}).encode(), 400, "given twice"),
    "nan": (request(data=[float("nan"), *ROW[1:]]), 400, "'X' is not a finite number at [0, 0]"),
    "infinity": (request(data=[*ROW[:3], float("inf")]), 400, "finite number at [0, 3]"),
    "1e400": (GOOD.replace(b"2.0", b"1e400"), 400, "finite number at [0, 1]"),
    "5000-digits": (GOOD.replace(b"2.0", b"9" * 5000), 400, "'X'"),
    "name": (request(name="Z"), 400, "unknown input 'Z'; the model takes 'X'"),
    "dtype": (request(datatype="FP64"), 400, "'X' is FP32, the request says 'FP64'"),
    "no-dtype": (request(datatype="float"), 400, "'X' is FP32, the request says 'float'"),
    "dtype-number": (request(datatype=3), 400, "datatype"),
    "shape": (request(shape=[1, 5]), 400, "'X' has shape [-1, 4] (-1 is free), the request says"),
    "rank": (request(shape=[4]), 400, "'X' has shape [-1, 4]"),
    "shape-negative": (request(shape=[-1, 4]), 400, "'X' has shape [-1, 4]"),
    "shape-huge": (request(shape=[10**18, 4]), 400, "4000000000000000000 elements, data has 4"),
    "shape-text": (request(shape="1"), 400, "shape"),
    "too-few": (request(data=ROW[1:]), 400, "takes 4 elements, data has 3"),
    "too-many": (request(data=[*ROW, 5]), 400, "takes 4 elements, data has 5"),
    "ragged": (request(data=[ROW[:2], ROW[:1]]), 400, "'X': data is ragged"),
    "texts": (request(data=["1", "2", "3", "4"]), 400, "element 0 is no FP32 value"),
    "truth": (request(data=[1, 2, 3, True]), 400, "element 3 is no FP32 value"),
    "nothing": (request(data=[1, None, 3, 4]), 400, "element 1 is no FP32 value"),
    "object": (request(data={}), 400, "'X': data is not an array"),
    "output": (more(outputs=[{"name": "Z"}]), 400, "unknown output 'Z'; the model has 'Y'"),
    "id": (more(id="x" * 1000), 400, "id is longer than 256"),
    "binary": (more(parameters={"binary_data_output": True}), 400, "binary tensor data"),
}


@pytest.mark.parametrize(("body", "status", "says"), BODIES.values(), ids=BODIES)
def test_a_request_that_cannot_be_is_refused_with_what_is_wrong(device, body, status, says):
    got, answer = asked(device, body)
    assert (got, list(answer)) == (status, ["error"]), answer
    assert says in answer["error"]
    assert device.ask().value == 1.0


PATHS = {
    "no-model": ("POST", "/v2/models/other/infer", 404, "no model 'other'"),
    "no-model-asked-about": ("GET", "/v2/models/other", 404, "no model 'other'"),
    "no-model-ready": ("GET", "/v2/models/other/ready", 404, "no model 'other'"),
    "a-version": ("POST", f"/v2/models/{NAME}/versions/9/infer", 405, "POST"),
    "a-version-asked-about": ("GET", f"/v2/models/{NAME}/versions/9", 404, "versions/9"),
    "no-name": ("POST", "/v2/models//infer", 405, "POST"),
    "odd-name": ("GET", "/v2/models/%00%ff", 404, "no model"),
    "long-name": ("GET", "/v2/models/" + "x" * 20_000, 404, "no model"),
    "nothing": ("GET", "/v3", 404, "/v3"),
    "get": ("GET", INFER, 405, "GET"),
    "delete": ("DELETE", f"/v2/models/{NAME}", 405, "DELETE"),
    "put": ("PUT", INFER, 405, "PUT"),
    "post-health": ("POST", "/v2/health/live", 405, "POST"),
}


@pytest.mark.parametrize(("method", "path", "status", "says"), PATHS.values(), ids=PATHS)
def test_what_is_not_there_is_named(device, method, path, status, says):
    got, answer = asked(device, GOOD, method=method, path=path)
    assert (got, list(answer)) == (status, ["error"]), answer
    assert says in answer["error"]


def test_the_binary_extension_is_refused_by_its_header(device):
    got, answer = asked(device, GOOD, headers={"Inference-Header-Content-Length": "9"})
    assert (got, "binary" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    ],
    ids=["no-http", "negative-length", "half-a-body", "bad-chunk", "endless-header", "tls"],
)
def test_a_connection_that_speaks_something_else_harms_no_other(device, sent):
    with socket.create_connection(("127.0.0.1", device.port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert device.ask().value == 1.0


def test_the_unix_socket_refuses_alike(bed):
    config = tomllib.loads((bed.fleet_dir / f"{DEVICE}.toml").read_text())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(config["serve"]["socket"])
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"`inputs`" in answer


def test_bad_requests_are_counted_as_the_clients_fault_and_roll_nothing_back(bed, device):
    bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", min_s=3)
    until("it is on probation", lambda: bed.model(DEVICE).get("state") == "on_probation")
    since_unix_ms = time.time_ns() // 1_000_000
    for _ in range(60):
        assert asked(device, request(shape=[1, 5]))[0] == 400
    ended = bed.until_ended(rollout)
    assert (ended["state"], ended["counts"]) == ("finished", {"confirmed": 1}), ended

    def counted():
        rows = bed.get(f"/v1/devices/{DEVICE}/records?channel=telemetry/inference&limit=1000")
        errors = [r["body"]["error_count"] for r in rows if r["received_unix_ms"] >= since_unix_ms]
        assert not [e for e in errors if e["runtime"] or e["deadline"] or e["non_finite"]]
        return sum(error["client"] for error in errors) >= 60

    bed.until("telemetry has them all as the client's", counted)


def test_after_all_of_that_the_fleet_works(bed):
    check_sound(bed, "3.0.0")
