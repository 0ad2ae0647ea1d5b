"""The doors of `wire/`: what controller and devices say to each other, and what a bundle holds."""

import hashlib
import json

from tests.agent.runtime.mutant import SOURCES
from tests.fuzz.door import Door
from tests.fuzz.samples import matching, sample, sampled_json
from tests.hostile import as_bytes
from wire import codec, content, endpoint, graph, ids, manifest, topics, trust
from wire.errors import BundleError, ConfigError, PeerError
from wire.messages import Message, Record

MODELS = tuple(as_bytes(source()) for source in SOURCES)
BODY = {"v": 1, "device": "cam-01", "generation": 1}
TOPIC_PATTERNS = (
    r"fleet/v1/device/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/(presence|desired|reported|ack|feedback)",
    r"fleet/v1/device/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/event/(update|gap|alarm|chunks_missing)",
    r"fleet/v1/device/[A-Za-z0-9][A-Za-z0-9_-]{0,63}/telemetry/(inference|window|performance|vitals)",
    r"fleet/v1/chunk/[0-9a-f]{64}",
    r"fleet/v1/trust/(timestamp|snapshot|targets|root-[1-9][0-9]{0,8})",
    r"fleet/v1/trust/model/[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    r"fleet/v1/controller/presence",
)
URL_PATTERN = r"(mqtt|mqtts|ws|wss)://([a-z]{1,3}(:[a-z%0-9]{0,3})?@)?[a-z0-9.-]{1,9}(:[0-9]{1,5})?(/[a-z]{0,4})?"


def kinds():
    """Return every type of message that has a payload of its own."""
    found, rest = set(), [Message]
    while rest:
        rest += (subclasses := rest.pop().__subclasses__())
        found.update(kind for kind in subclasses if kind.__module__ == Message.__module__)
    return found - {Record}


def doors():
    yield from map(_message, sorted(codec.PAYLOADS.values(), key=lambda kind: kind.__name__))
    yield Door(
        "topic",
        lambda data: topics.parse(data.decode("utf-8", "replace")),
        (),
        lambda random: matching(random.choice(TOPIC_PATTERNS), random).encode(),
        lambda topic: topic.text.encode(),
        ("wire.topics",),
    )
    yield Door(
        "signed text",
        trust.open_sealed,
        (PeerError,),
        _signed_text,
        lambda text: trust.seal(text.body, text.signature),
        ("wire.trust",),
    )
    yield Door(
        "content index",
        content.parse_index,
        (PeerError,),
        _index,
        codec.encode,
        ("wire.content",),
    )
    yield Door(
        "chunk",
        lambda data: content.decode_chunk(data[:64].decode("latin-1"), data[64:]),
        (PeerError,),
        lambda random: _chunk(random.randbytes(random.randrange(50)) * random.randrange(50)),
        _chunk,
        ("wire.content",),
    )
    yield Door(
        "manifest",
        manifest.parse_manifest,
        (BundleError,),
        _manifest,
        codec.encode,
        ("wire.manifest",),
    )
    yield Door(
        "model",
        _facts,
        (BundleError,),
        lambda random: random.choice(MODELS),
        None,  # a device never writes a model
        ("wire.graph",),
    )
    yield Door(
        "broker url",
        lambda data: endpoint.parse_broker_url(data.decode("utf-8", "replace")),
        (ConfigError,),
        lambda random: matching(URL_PATTERN, random).encode(),
        None,  # its parts are used one by one
        ("wire.endpoint",),
    )
    yield Door(
        "release name",
        lambda data: ids.parse_release(data.decode("utf-8", "replace")),
        (PeerError,),
        lambda random: (
            f"{matching(ids.NAME_PATTERN, random)}:{matching(ids.VERSION_PATTERN, random)}"
        ).encode(),
        lambda release: str(release).encode(),
        ("wire.ids",),
    )


def _message(kind):
    return Door(
        kind.__name__,
        lambda data: codec.decode(kind, data),
        (PeerError,),
        sampled_json(kind.model_json_schema()),
        codec.encode,
        ("wire.codec",),
    )


def _signed_text(random):
    signature = sample(trust.Signature.model_json_schema(), random)
    return json.dumps(BODY).encode() + b"\n" + json.dumps(signature).encode()


def _index(random):
    schema = content.Index.model_json_schema()
    name = random.choice(["files", "index"])
    (inner,) = (s for s in schema["properties"][name]["anyOf"] if s.get("type") != "null")
    return json.dumps({"v": 1, name: sample(inner, random, schema)}).encode()


def _chunk(plain):
    return hashlib.sha256(plain).hexdigest().encode() + content.encode_chunk(plain)


def _manifest(random):
    made = sample(manifest.Manifest.model_json_schema(), random)
    entry = manifest.ArtifactEntry.model_json_schema()
    paths = sorted(manifest.REQUIRED_FILES)
    made["files"] = [sample(entry, random) | {"path": path} for path in paths]
    return json.dumps(made).encode()


def _facts(data):
    facts = graph.scan_model(data)
    assert facts == graph.scan_model(memoryview(data))
    assert facts.node_count <= graph.MAX_NODES
    assert facts.expanded_node_count <= graph.MAX_EXPANDED_NODES
    assert facts.depth <= graph.MAX_DEPTH
    assert all(op.name.isprintable() and op.domain.isprintable() for op in facts.ops)
    return facts
