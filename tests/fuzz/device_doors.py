"""The doors of `agent/`: its configuration, its requests, its files, and a runtime that was taken over."""

import atexit
import contextlib
import io
import json
import shutil
import socket
import sqlite3
import struct
import zipfile
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import msgspec
import numpy as np

from agent import config, control, status
from agent.adapters import (
    capture_ring,
    capture_rows,
    durable,
    identity_files,
    ngclient,
    starts,
    state_sqlite,
    trust_peek,
)
from agent.runtime import columns, comparison, feedback, oip, selftest
from agent.runtime.tap import HEADER
from tests.agent.captured import MANIFEST, row
from tests.agent.runtime.test_oip import manifest
from tests.conformance.repository import Repository
from tests.fuzz.door import Door, Refused
from tests.fuzz.samples import sample, sampled_json
from tests.fuzz.written import toml
from wire.capture import CaptureRequest
from wire.errors import BundleError, ConfigError, PeerError
from wire.histogram import Baseline

MODELS = (
    manifest(),
    manifest("INT64", (2,), "pass"),
    manifest("BYTES", (-1, -1), more_inputs=("Z",)),
    manifest("FP16", (), "pass"),
)
ROW_HEAD = ("digits", "1.0.0", MANIFEST, 1, "", None)
FILES = ("timestamp.json", "1.snapshot.json", "1.targets.json", "2.root.json")
BODY_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": {"enum": [{"name": "p"}, {"name": "label"}]}},
        "parameters": {"enum": [{}, {"binary_data_output": False}]},
    },
}

_LABEL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "label": {"enum": [0, -7, 2.5, True, "cat", "ü"]},
        "row": {"enum": [None, 0, 3]},
        "version": {"enum": [None, "1.0.0"]},
    },
    "required": ["id", "label"],
}
FEEDBACK_SCHEMA = {
    "type": "object",
    "properties": {"labels": {"type": "array", "items": _LABEL, "minItems": 1}},
    "required": ["labels"],
}


@cache
def folder():
    """Return a directory of this process, for those that read files; it goes with the process."""
    made = mkdtemp(prefix="modelfleet-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def as_file(name, read):
    """Return a function that has `read` read a file of these bytes."""

    def through(data):
        path = folder() / name
        path.write_bytes(data)
        return read(path)

    return through


def some(value):
    """Refuse where the answer is None."""
    if value is None:
        raise Refused
    return value


def a_sample(random):
    """Return a request with its answer, as the runtime that serves gives it to a shadow."""
    body = b'{"inputs":[]}'
    labels = [random.randrange(10) for _ in range(random.randrange(1, 5))]
    label = {"name": "label", "datatype": "INT64", "shape": [len(labels)], "data": labels}
    shape = [len(labels), 2]
    scores = {"name": "p", "datatype": "FP32", "shape": shape, "data": [0.5] * (2 * len(labels))}
    answer = json.dumps({"outputs": [label, scores]}).encode()
    return HEADER.pack(len(body), len(answer), random.random()) + body + answer


def doors():
    yield Door(
        "a sample for a shadow",
        comparison.parse_sample,
        (comparison.SampleError,),
        a_sample,
        None,
        ("agent.runtime.comparison",),
    )
    yield Door(
        "agent.toml",
        as_file("agent.toml", config.load_config),
        (ConfigError,),
        _agent_toml,
        lambda value: toml(value.model_dump(mode="json", exclude_none=True)),
        ("agent.config",),
    )
    yield _control("command to the runtime", control.receive_command, control.Command)
    yield _control("report of the runtime", control.receive_report, control.Report)
    yield Door(
        "inference request",
        lambda data: oip.parse_request(
            MODELS[data[0] % len(MODELS)] if data else MODELS[0], data[1:]
        ),
        (oip.RequestError,),
        _request,
        None,  # written by clients only
        ("agent.runtime.oip",),
    )
    yield Door(
        "feedback request",
        feedback.parse_feedback,
        (oip.RequestError,),
        sampled_json(FEEDBACK_SCHEMA),
        None,  # written by clients only
        ("agent.runtime.feedback",),
    )
    yield Door(
        "baseline.json",
        as_file("baseline.json", lambda path: some(columns.read_baseline(path))),
        (),
        sampled_json(Baseline.model_json_schema()),
        lambda baseline: baseline.model_dump_json().encode(),
        ("agent.runtime.columns",),
    )
    yield Door(
        "golden.npz",
        as_file("golden.npz", selftest._read),
        (BundleError,),
        lambda random: npz(
            is_packed=random.random() < 0.5,
            input_0=np.arange(random.randrange(9)),
            atol=np.float32(0.5),
            s=np.array(["a", "ü"]),
        ),
        lambda arrays: npz(**{f"a{i}": array for i, array in enumerate(arrays.values())}),
        ("agent.runtime.selftest",),
        repaired=with_crcs,
        same=lambda one, other: all(
            np.array_equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
        ),
    )
    yield Door(
        "starts.json",
        as_file(starts.NAME, lambda path: starts.read_starts(path.parent)),
        (),
        sampled_json(starts._STARTS.json_schema()),
        starts._STARTS.dump_json,
        ("agent.adapters.starts",),
    )
    yield Door(
        "answer of the runtime",
        status.version_in,
        (ValueError,),
        lambda random: json.dumps(oip.model_metadata(random.choice(MODELS))).encode(),
        lambda version: json.dumps({"versions": [version]}).encode(),
        ("agent.status",),
    )
    yield Door(
        "signed metadata on its way in",
        _metadata_run,
        (),
        lambda random: bytes([(n := random.randrange(4))]) + signed_by_a_stranger().files[FILES[n]],
        None,  # nobody signs on a device
        ("agent.adapters.ngclient",),
        weight=0.2,
    )
    yield Door(
        "metadata as shown",
        _peeked,
        (),
        lambda random: (
            random.choice([b"\0", b"\1", b"\2"]) + signed_by_a_stranger().files[FILES[2]]
        ),
        None,  # only read
        ("agent.adapters.trust_peek",),
    )
    yield Door(
        "look of a captured row",
        lambda data: some(capture_rows._row((*ROW_HEAD, data, b""))),
        (),
        lambda random: capture_rows._look(_without_values(random)),
        None,  # a digest tells what has changed
        ("agent.adapters.capture_rows",),
    )
    yield Door(
        "what a ring was asked for",
        as_file("job.json", lambda path: some(_job_in(path.read_bytes()))),
        (),
        sampled_json(CaptureRequest.model_json_schema()),
        None,  # as above
        ("agent.adapters.capture_ring",),
        weight=0.2,
    )
    for module, attribute in (
        (state_sqlite, "_MARKS"),
        (state_sqlite, "_STATE"),
        (identity_files, "_PLACE"),
        (identity_files, "_TEXTS"),
    ):
        yield _kept(module, attribute)


def _without_values(random):
    """Return a captured row whose tensors are empty: its look alone is of interest."""
    found = row(random.randrange(9), size=0)
    return replace(found, tensors=found.tensors[:1], left_out=("age",) * random.randrange(3))


def _job_in(data):
    """Return the job of a ring in whose file these bytes stand."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        capture_rows.prepare(db)
        db.execute(
            "INSERT INTO job VALUES (1, ?, 0, 0, 'open')", (data.decode("utf-8", "replace"),)
        )
        return capture_ring._job(db)


def _kept(module, attribute):
    """Return the door of a row or file of the device's own, which a disk may have changed."""
    kind = getattr(module, attribute)
    return Door(
        attribute.strip("_").lower(),
        lambda data: kind.validate_json(durable.unsealed(data.decode())[1]),
        (ValueError,),
        lambda random: durable.sealed(0, json.dumps(sample(kind.json_schema(), random))).encode(),
        lambda value: durable.sealed(0, kind.dump_json(value).decode()).encode(),
        (module.__name__, "agent.adapters.durable"),
        repaired=lambda data: durable.sealed(0, data.decode("utf-8", "replace")).encode(),
    )


@cache
def signed_by_a_stranger():
    """Return a repository of signed documents."""
    repository = Repository()
    repository.publish("root")
    return repository


def _metadata_run(data):
    """Have one of the documents be what `data` says, in the run of a client that knows the root."""
    repository = signed_by_a_stranger()
    files = dict(repository.files)
    if data:
        files[FILES[data[0] % len(FILES)]] = data[1:]

    def fetch(name):
        yield files[name]  # a KeyError is a LookupError

    with TemporaryDirectory(dir=folder()) as directory:
        run = ngclient.run(
            Path(directory),
            repository.bootstrap,
            fetch,
            now=repository.now,
            paths=(),
            max_bytes=60_000,
        )
    if run.error is not None:
        raise Refused
    return run.timestamp.signed.version


def _peeked(data):
    """Look at a directory of metadata in which the documents of one role are what `data` says."""
    names = {"root": 3, "timestamp": 0, "snapshot": 1, "targets": 2, "model-digits": 2}
    with TemporaryDirectory(dir=folder()) as directory:
        for name, number in names.items():
            (Path(directory) / f"{name}.json").write_bytes(
                signed_by_a_stranger().files[FILES[number]]
            )
        chosen = ("targets", "model-digits", "timestamp")[data[0] % 3 if data else 0]
        (Path(directory) / f"{chosen}.json").write_bytes(data[1:])
        return some(trust_peek.peek(Path(directory)))


def _control(name, receive, kind):
    def read(data):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            theirs.send(data[: control.MAX_DATAGRAM_BYTES])
            return some(receive(ours))[0]

    return Door(
        name,
        read,
        (PeerError,),
        sampled_json(msgspec.json.schema(kind)),
        msgspec.json.encode,
        ("agent.control",),
    )


def _agent_toml(random):
    made = sample(config.AgentConfig.model_json_schema(), random)
    made["broker"] = {"url": random.choice(["mqtt://127.0.0.1:1883", "wss://broker/mqtt"])}
    return toml(made)


def _request(random):
    number = random.randrange(len(MODELS))
    tensors = []
    for spec in MODELS[number].inputs:
        shape = [random.randrange(3) if size < 0 else size for size in spec.shape]
        count = int(np.prod(shape))
        value = {"I": 1, "F": 0.5, "B": "a"}[spec.datatype[0]]
        data = [value] * count
        if count and random.random() < 0.5:
            data = np.full(shape, value, dtype=object).tolist()
        tensors.append({"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": data})
    body = {"inputs": tensors} | sample(BODY_SCHEMA, random)
    return bytes([number]) + json.dumps(body).encode()


def with_crcs(data):
    """Give every member of an archive the checksum that belongs to it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return data
    for member in members:
        # Thirty bytes of a header, then name and extra field, whose lengths are its last two.
        head = data[member.header_offset : member.header_offset + 30]
        if len(head) == 30:
            start = member.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
            crc = zlib.crc32(data[start : start + member.compress_size])
            data = data.replace(struct.pack("<L", member.CRC), struct.pack("<L", crc))
    return data


def npz(*, is_packed=False, **arrays):
    """Return an archive of arrays."""
    out = io.BytesIO()
    (np.savez_compressed if is_packed else np.savez)(out, **arrays)
    return out.getvalue()
