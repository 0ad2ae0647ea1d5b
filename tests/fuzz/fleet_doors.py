"""The doors of `fleet/` and `converter/`: the API, what people type and keep, what a child leaves."""

import asyncio
import json
import tarfile
from functools import cache

import httpx
import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.captured import pack
from converter import handover
from fleet import checkpoints, settings
from fleet.api import app as api
from fleet.api import query, schemas
from fleet.api.schemas import DeviceIn
from fleet.capture import packs as capture_packs
from fleet.capture.export import Export
from fleet.cli import client, console, devices, events
from fleet.core.audit import Beginning, Checkpoint
from fleet.pki import authority
from fleet.pki.folder import PkiFolder
from fleet.trust import documents
from tests.agent.captured import row
from tests.fleet.bundles import bundle as whole_bundle
from tests.fleet.peers import Fleet
from tests.fleet.secured import new_request
from tests.fuzz.archives import tar, with_checksums
from tests.fuzz.device_doors import as_file, folder, npz, signed_by_a_stranger, some, with_crcs
from tests.fuzz.door import Door, Refused
from tests.fuzz.samples import matching, sample, sampled_json
from tests.fuzz.written import table, toml
from wire import bundle
from wire.errors import BundleError, ConfigError, PeerError

ROLES = ("root", "targets", "snapshot", "timestamp")
BLOCK = tarfile.BLOCKSIZE
ERROR_SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("message", "code", "hint")},
    "required": ["message", "code", "hint"],
}
OLDEST_YEAR = 1000
"""python-tuf writes years before without their zeros, which it does not read; they have long expired."""
NOT_BY_FORM = (404, 409)
"""Refused for what there is or is not; as a request it was good."""
NAMES = {
    "device": "cam-01",
    "model": "digits",
    "version": "1.0.0",
    "alias": "champion",
    "rollout": "r-1",
    "alert": "1",
}
"""What stands in the paths of routes."""
ANSWERS = (schemas.Device, schemas.Rollout, schemas.PushResult, schemas.ErrorBody, schemas.Status)


def doors():
    yield Door(
        "bundle",
        as_file("a.bundle", bundle.read_bundle),
        (BundleError,),
        lambda random: whole_bundle(model=random.randbytes(random.randrange(2000))),
        tar,
        ("wire.bundle",),
        repaired=with_checksums,
        weight=0.5,
    )
    yield Door(
        "fleet.toml",
        lambda data: settings.parse_settings(
            data.decode("utf-8", "replace"), folder() / settings.FILE_NAME
        ),
        (ConfigError,),
        _fleet_toml,
        lambda value: toml(value.model_dump(mode="json", exclude={"root"}, exclude_none=True)),
        ("fleet.settings",),
    )
    yield Door(
        "list of devices",
        as_file("devices.csv", devices._read_csv),
        (PeerError,),
        lambda random: table([_row(random) for _ in range(random.randint(1, 5))]),
        lambda rows: table([{"id": row.id, **row.tags} for row in rows]),
        ("fleet.cli.devices",),
    )
    yield from (
        _argument("tags", lambda text: console.parse_tags(text.split("\n"), option="--tag"), _tags),
        _argument("match", lambda text: query.parse_match(text.split("\n")), _tags),
        _argument(
            "duration", _seconds, lambda random: matching(r"[0-9]{1,4}(ms|s|m|h|d)?", random)
        ),
        _argument(
            "address",
            lambda text: console.parse_address(text, option="--listen"),
            lambda random: matching(r"[a-z0-9.]{1,9}:[0-9]{1,5}", random),
        ),
    )
    yield Door(
        "signing request",
        lambda data: authority.read_request(data.decode("utf-8", "replace")),
        (PeerError,),
        lambda random: new_request(_key(), matching(r"[a-z0-9-]{1,64}", random)).encode(),
        None,  # written by devices
        ("fleet.pki.authority",),
        weight=0.5,
    )
    yield Door(
        "certificate",
        lambda data: authority.read_certificate(data.decode("utf-8", "replace")),
        (PeerError,),
        _certificate,
        lambda issued: issued.pem.encode(),
        ("fleet.pki.authority",),
        weight=0.5,
    )
    yield from map(_answer, ANSWERS)
    yield Door(
        "watched event",
        lambda data: some(events._parse(data.decode("utf-8", "replace"))),
        (),
        lambda random: b"data: " + sampled_json(schemas.WatchEvent.model_json_schema())(random),
        lambda event: b"data:" + event.model_dump_json().encode(),
        ("fleet.cli.events",),
    )
    yield Door(
        "signed document",
        _parsed_document,
        (PeerError,),
        _document,
        lambda document: (
            bytes([ROLES.index(document.role)])
            + documents.freeze(document.role, document.metadata).body
        ),
        ("fleet.trust.documents",),
        same=lambda one, other: one.metadata == other.metadata,
    )
    yield Door(
        "checkpoints of the audit log",
        as_file("checkpoints.jsonl", _checkpoints),
        (),
        lambda random: _checkpoint_lines(
            [
                Checkpoint(
                    n, n + 1, matching(r"[0-9a-f]{64}", random), ("a", "b"), random.randrange(2**40)
                )
                for n in range(random.randint(1, 3))
            ]
            + [
                Beginning(
                    random.randrange(9),
                    "0" * 64,
                    "lost",
                    random.random() < 0.5,
                    random.randrange(2**40),
                )
            ]
        ),
        _checkpoint_lines,
        ("fleet.checkpoints",),
    )
    yield from _captured()
    yield from _left_by_a_child()
    yield from map(_route, sorted(_routes(), key=str))


def _captured():
    """Return the doors of captured rows: a pack as a device sends it, and packs as the controller does."""
    yield Door(
        "pack of captured rows",
        capture_packs.read_pack,
        (PeerError,),
        _pack,
        None,  # written by devices
        ("fleet.capture.packs",),
        repaired=with_crcs,
        weight=0.5,
    )
    yield Door(
        "stream of packs",
        lambda data: Export.read([data[:100], data[100:]]),
        (PeerError, ConfigError),
        lambda random: b"".join(
            json.dumps({"device": "cam-01", "size_bytes": len(body)}).encode() + b"\n" + body
            for body in (_pack(random) for _ in range(random.randrange(3)))
        ),
        None,  # written by the controller
        ("fleet.capture.export",),
        weight=0.3,
    )


def _pack(random):
    rows = [
        row(n, score=random.choice([None, random.random()]), id_=matching("[a-zü]{0,9}", random))
        for n in range(random.randrange(5))
    ]
    if rows and random.random() < 0.3:
        rows += [row(1, version="2.0.0")]
    return pack(rows, "c-1", "digits", is_all=random.random() < 0.5).body


def _checkpoints(path):
    found = checkpoints.read_lines(path, _signing_key().public_key())
    if found.bad_line is not None:
        raise Refused
    return list(found.lines)


def _checkpoint_lines(lines):
    return b"".join(
        json.dumps(
            {**checkpoints.fields(c), "sig": _signing_key().sign(c.signed_bytes).hex()},
            separators=(",", ":"),
        ).encode()
        + b"\n"
        for c in lines
    )


@cache
def _signing_key():
    return Ed25519PrivateKey.generate()


def _parsed_document(data):
    document = documents.parse_document(ROLES[data[0] % len(ROLES)] if data else "", data[1:])
    if document.signed.expires.year < OLDEST_YEAR:
        raise Refused
    return document


def _document(random):
    number = random.randrange(len(ROLES))
    files = {"root": "1.root.json", "targets": "1.targets.json", "snapshot": "1.snapshot.json"}
    return (
        bytes([number]) + signed_by_a_stranger().files[files.get(ROLES[number], "timestamp.json")]
    )


def _argument(name, read, sampled):
    return Door(
        name,
        lambda data: read(data.decode("utf-8", "surrogateescape")),
        (typer.BadParameter, PeerError),
        lambda random: sampled(random).encode(),
        None,  # typed by people
        ("fleet.cli.console", "fleet.api.app"),
    )


def _seconds(text):
    seconds = console.parse_seconds(text, option="--soak")
    assert seconds >= 0
    return seconds


def _answer(kind):
    return Door(
        f"answer {kind.__name__}",
        lambda data: client._parse(
            kind, httpx.Response(200, content=data, request=httpx.Request("GET", "http://c/"))
        ),
        (PeerError,),
        sampled_json(kind.model_json_schema()),
        lambda answer: answer.model_dump_json().encode(),
        ("fleet.cli.client",),
        weight=0.5,
    )


def _left_by_a_child():
    """What a converter's child leaves, which has run the code of a model that came from anywhere."""

    def read(data):
        for name in ("fed", "converted", "again", "single"):
            (folder() / f"{name}.npz").write_bytes(data)
        (folder() / "facts.json").write_text('{"kind":"onnx"}')
        return some(handover.take(folder()))[1].converted

    yield Door(
        "arrays of a child",
        read,
        (),
        lambda random: npz(
            is_packed=random.random() < 0.5,
            names=json.dumps(["X"]),
            a0=[0.5] * random.randint(1, 9),
        ),
        None,  # written by the child
        ("converter.handover",),
        repaired=with_crcs,
        weight=0.5,
    )
    facts = sampled_json(handover.Facts.model_json_schema())
    yield Door(
        "facts of a child",
        handover.Facts.model_validate_json,
        (ValueError,),
        facts,
        lambda value: value.model_dump_json().encode(),
        ("converter.handover",),
    )
    yield Door(
        "error of a child",
        lambda data: some(
            as_file("error.json", lambda path: handover.take_error(path.parent))(data)
        ),
        (),
        sampled_json(ERROR_SCHEMA),
        None,  # written by the child
        ("converter.handover",),
    )


@cache
def _controller():
    """Return the API of a whole controller, and the header of who may do everything."""
    root = folder() / "controller"
    root.mkdir()
    fleet = Fleet(root)
    fleet.add("cam-01", "cam-02")
    fleet.release("1.0.0")
    return api.build_app(fleet.controller), fleet.bearer()


@cache
def _documents():
    """Return what the controller itself shows of the documents that people sign."""
    shown = asyncio.run(_ask("get", "/v1/trust/metadata", b"")).json()
    return {
        name: text for name, text in shown.items() if "snapshot" not in name and "stamp" not in name
    }


async def _ask(method, path, data):
    app, bearer = _controller()
    headers = bearer | {"content-type": "application/json"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as session:
        return await session.request(method, path, content=data, headers=headers)


def _routes():
    """Return method, path and schema of each route that takes a body of JSON."""
    document = _controller()[0].openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if body := operation.get("requestBody", {}).get("content", {}).get("application/json"):
                yield (
                    method,
                    path,
                    json.dumps(body["schema"] | {"components": document["components"]}),
                )


def _route(route):
    method, path, text = route
    schema = json.loads(text)

    def read(data):
        response = asyncio.run(_ask(method, path.format_map(NAMES), data))
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            schemas.ErrorBody.model_validate_json(response.content)
            if response.status_code not in NOT_BY_FORM:
                raise Refused
        return response.json()

    return Door(
        f"{method.upper()} {path}",
        read,
        (),
        lambda random: json.dumps(_body(path, sample(schema, random))).encode(),
        None,  # a request changes what the next one meets
        ("fleet.api.app", "fleet.api.json_route"),
        weight=0.3,
    )


def _body(path, made):
    """Let the samples speak of what there is, and make sense."""
    if path.endswith(("rollouts", "rollbacks")):
        made["model"] = "digits"
        made.pop("match", None)
    if path.endswith(("rollouts", "{alias}")):
        made["version"] = "1.0.0"
    if path.endswith("rollouts"):
        made.pop("phases", None)
        made.pop("probation", None)
    if path.endswith(("metadata", "restoration")):
        return _documents()
    if path.endswith("observers"):
        made["name"] = made["name"][:40]
        made["csr"] = new_request(_key(), f"fleet.observer.{made['name']}")
    if path.endswith("lifts"):
        made["device"] = "cam-01"
        made.pop("match", None)
    return made


def _tags(random):
    tags = [f"{key}={value}" for key, value in _row(random).items() if key != "id"]
    return "\n".join([*tags, "site=lab"])


def _row(random):
    made = sample(DeviceIn.model_json_schema(), random)
    made["tags"] = {k: v for k, v in made.get("tags", {}).items() if k != "id"}
    return {"id": made["id"], **made["tags"]}


def _fleet_toml(random):
    made = sample(settings.FleetSettings.model_json_schema(), random)
    made.pop("root", None)
    made.pop("alerts", None)  # its limits lean on each other
    for section, keys in (("broker", ("url",)), ("api", ("certificate", "key", "ca", "url"))):
        for key in keys:  # each of which wants others
            made.get(section, {}).pop(key, None)
    return toml(made)


@cache
def _key():
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _authority():
    return authority.CertificateAuthority.found(
        PkiFolder(folder() / "pki"), ["127.0.0.1"], 1_700_000_000_000
    )


def _certificate(random):
    request = authority.read_request(new_request(_key(), matching(r"[a-z0-9-]{1,64}", random)))
    return _authority().issue(request, 1_700_000_000_000).pem.encode()
