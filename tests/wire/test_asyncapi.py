"""`docs/asyncapi.yaml` is whole, and says what the topics and payloads are."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from wire import codec, topics

DOCUMENT = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text(encoding="utf-8")
)
MESSAGES = DOCUMENT["components"]["messages"]


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def found(reference):
    node = DOCUMENT
    for level in reference.removeprefix("#/").split("/"):
        node = node[level]
    return node


def validator_of(channel):
    """Return what judges a payload by the document alone."""
    schema = {
        **MESSAGES[channel.replace("/", "_")]["payload"],
        "components": DOCUMENT["components"],
    }
    return jsonschema.Draft7Validator(schema)


def test_every_reference_leads_somewhere():
    every = set(references(DOCUMENT))
    assert len(every) > len(codec.PAYLOADS)
    assert all(found(reference) for reference in every)


@pytest.mark.parametrize("channel", codec.PAYLOADS)
def test_a_payload_that_the_code_takes_fits_its_schema_and_a_wrong_one_does_not(channel):
    validator = validator_of(channel)
    (example,) = MESSAGES[channel.replace("/", "_")]["examples"]
    payload = example["payload"]
    codec.decode(codec.PAYLOADS[channel], json.dumps(payload).encode())
    validator.validate(payload)
    kind = codec.PAYLOADS[channel]
    required = [f.alias or name for name, f in kind.model_fields.items() if f.is_required()]
    for name in required:
        assert not validator.is_valid({key: payload[key] for key in payload if key != name})
    assert not validator.is_valid({**payload, "v": 2})


def test_every_topic_has_its_channel_with_who_sends_it_and_how():
    sent = {
        found(operation["channel"]["$ref"])["address"]: operation
        for operation in DOCUMENT["operations"].values()
    }
    every = [
        topics.Presence("{device}"),
        topics.Desired("{device}"),
        topics.Reported("{device}"),
        topics.Ack("{device}"),
        topics.Feedback("{device}"),
        topics.Chunk("{digest}"),
        topics.Trust("{role}"),
        topics.ModelTrust("{model}"),
        topics.ControllerPresence(),
        topics.ControllerAlert(),
        *(topics.Event("{device}", kind) for kind in topics.EVENT_KINDS),
        *(topics.Telemetry("{device}", kind) for kind in topics.TELEMETRY_KINDS),
    ]
    assert sent.keys() == {topic.text for topic in every}
    for topic in every:
        operation = sent[topic.text]
        assert operation["action"] == ("send" if topic.writer == "device" else "receive")
        assert operation["bindings"]["mqtt"]["qos"] == topic.qos
        assert operation["bindings"]["mqtt"]["retain"] == topic.retain
