"""The payload types: bounded, strict about what they know, patient with what they do not."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wire import codec, ids
from wire import messages as m
from wire.errors import PeerError
from wire.lifecycle import Code, Outcome
from wire.performance import REQUEST_ID_PATTERN

CHANNELS = list(codec.PAYLOADS)
LONGEST = {
    ids.NAME_PATTERN: "n" * 64,
    ids.VERSION_PATTERN: "v" * 64,
    ids.DIGEST_PATTERN: "d" * 64,
    ids.BOOT_PATTERN: "b" * 16,
    ids.FINGERPRINT_PATTERN: "f" * 16,
    m.CODE_PATTERN: "c" * 32,
    REQUEST_ID_PATTERN: "i" * 128,
}


def schema_of(kind):
    schema = kind.model_json_schema(by_alias=True)
    return schema, schema.get("$defs", {})


def resolved(node, parts):
    return parts[node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def values(node, parts):
    """Return a strategy for everything that the schema admits, as JSON values."""
    node = resolved(node, parts)
    match node:
        case {"anyOf": choices}:
            return st.one_of([values(choice, parts) for choice in choices])
        case {"const": value}:
            return st.just(value)
        case {"enum": words}:
            return st.sampled_from(words)
        case {"type": "null" | "boolean" as kind}:
            return st.none() if kind == "null" else st.booleans()
        case {"type": "integer"}:
            return st.integers(node["minimum"], node["maximum"])
        case {"type": "number"}:
            low, high = node.get("minimum"), node.get("maximum")
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case {"type": "string", "pattern": pattern}:
            return st.from_regex(pattern, fullmatch=True)
        case {"type": "string"}:
            return st.text(max_size=node["maxLength"])
        case {"type": "array"}:
            few = min(node["maxItems"], 3)
            return st.lists(
                values(node["items"], parts), min_size=node.get("minItems", 0), max_size=few
            )
        case {"type": "object"}:
            needed = set(node.get("required", ()))
            fields = {name: values(field, parts) for name, field in node["properties"].items()}
            optional = {name: field for name, field in fields.items() if name not in needed}
            return st.fixed_dictionaries({n: fields[n] for n in needed}, optional=optional)
    raise AssertionError(f"unknown to this test: {node}")


def longest(node, parts):
    """Return the value that the schema admits with the longest JSON; fail where there is none."""
    node = resolved(node, parts)
    match node:
        case {"anyOf": choices}:
            return max((longest(choice, parts) for choice in choices), key=length)
        case {"const": value}:
            return value
        case {"enum": words}:
            return max(words, key=length)
        case {"type": "null" | "boolean" as kind}:
            return None if kind == "null" else False
        case {"type": "integer"}:
            return max((node["minimum"], node["maximum"]), key=length)
        case {"type": "number"}:
            low, high = node.get("minimum", -math.inf), node.get("maximum", math.inf)
            candidates = [-2.2250738585072014e-308, 2.2250738585072014e-308]
            candidates += [math.nextafter(low, math.inf)] if low > 0 else []
            return max((c for c in candidates if low <= c <= high), key=length)
        case {"type": "string", "pattern": pattern}:
            return LONGEST[pattern]
        case {"type": "string"}:
            return "t" * node["maxLength"]
        case {"type": "array", "maxBytes": most}:
            item = longest(node["items"], parts)
            while item and length(item) > most:
                item = item[:-1]
            return [item]
        case {"type": "array"}:
            return [longest(node["items"], parts)] * node["maxItems"]
        case {"type": "object"}:
            return {name: longest(field, parts) for name, field in node["properties"].items()}
    raise AssertionError(f"unknown to this test: {node}")


def length(value):
    return len(json.dumps(value))


def leaves(value, path=()):
    """Yield the path and value of everything that is no object or array."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def objects(value):
    if isinstance(value, dict | list):
        if isinstance(value, dict):
            yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from objects(inner)


def replaced(value, path, new):
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


def full(channel):
    """Return the longest value of a channel: every field is there."""
    return json.loads(json.dumps(longest(*schema_of(codec.PAYLOADS[channel]))))


def decode(channel, value):
    payload = json.dumps(value).encode()
    return codec.decode(codec.PAYLOADS[channel], payload, max_bytes=codec.MAX_MESSAGE_BYTES)


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_longest_message_that_validation_admits_is_within_the_cap(channel):
    message = decode(channel, full(channel))
    payload = codec.encode(message)
    assert len(payload) <= codec.MAX_CONTROL_BYTES
    assert codec.decode(codec.PAYLOADS[channel], payload) == message


def test_a_device_with_all_its_models_at_their_longest_reports_all_of_them():
    report = decode("reported", full("reported"))
    assert len(report.models) == m.MAX_MODELS_PER_DEVICE == 8
    assert all(len(model.detail) == m.MAX_REPORTED_DETAIL_BYTES for model in report.models)
    assert len(report.quarantined) == m.MAX_QUARANTINED


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_message_survives_the_wire(channel):
    kind = codec.PAYLOADS[channel]

    @settings(max_examples=25)
    @given(values(*schema_of(kind)))
    def check(value):
        message = decode(channel, value)
        assert codec.decode(kind, codec.encode(message)) == message

    check()


@pytest.mark.parametrize("channel", CHANNELS)
def test_what_a_newer_side_adds_is_ignored_at_every_level(channel):
    value = full(channel)
    expected = decode(channel, value)
    for inner in list(objects(value)):
        inner["new"] = [{"deep": [None, 1.5, "x"]}]
    assert decode(channel, value) == expected


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_message_without_a_required_field_is_refused(channel):
    required = [
        f.alias or n for n, f in codec.PAYLOADS[channel].model_fields.items() if f.is_required()
    ]
    assert required
    for name in required:
        value = full(channel)
        del value[name]
        with pytest.raises(PeerError, match=name) as refused:
            decode(channel, value)
        assert refused.value.code == "payload_invalid"


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_value_of_another_type_is_refused_wherever_it_stands(channel):
    value = full(channel)
    for path, leaf in leaves(value):
        wrong = [[], {}, [leaf]]
        wrong += [str(leaf), f"{leaf}"] if isinstance(leaf, int | float) else [7, True]
        if isinstance(leaf, bool):
            wrong += [0, 1]
        elif isinstance(leaf, int) and path[-1] != "v":
            wrong += [True, leaf + 0.5]
        for other in wrong:
            with pytest.raises(PeerError):
                decode(channel, replaced(value, path, other))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_number_beyond_its_limits_is_refused(channel):
    value = full(channel)
    for path, leaf in leaves(value):
        if isinstance(leaf, int) and not isinstance(leaf, bool) and path[-1] != "v":
            for beyond in (-1, 2**53, 10**300):
                with pytest.raises(PeerError):
                    decode(channel, replaced(value, path, beyond))


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_number_that_is_not_finite_is_refused(channel):
    value = full(channel)
    for path, leaf in leaves(value):
        if isinstance(leaf, int | float):
            for odd in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400"):
                text = json.dumps(replaced(value, path, "@@")).replace('"@@"', odd)
                with pytest.raises(PeerError):
                    codec.decode(
                        codec.PAYLOADS[channel], text.encode(), max_bytes=codec.MAX_MESSAGE_BYTES
                    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (m.LatencyMs, "p50"),
        (m.LatencyMs, "p95"),
        (m.LatencyMs, "p99"),
        (m.Guards, "error_ratio"),
        (m.Probation, "min_s"),
        (m.Probation, "max_s"),
    ],
)
def test_one_s_own_number_that_is_not_finite_is_refused(kind, field, odd):
    with pytest.raises(ValidationError):
        kind(**{field: odd})


@pytest.mark.parametrize("version", [0, 2, None, "1", [1], True])
def test_another_version_of_the_schema_is_refused(version):
    for channel in CHANNELS:
        with pytest.raises(PeerError):
            decode(channel, {**full(channel), "v": version})


@pytest.mark.parametrize(
    "character", ['"', "\\", "\n", "\x1b", "\xe4", "\u202e", "\U0001f600", "x"]
)
def test_the_length_of_a_text_is_what_it_takes_on_the_wire(character):
    said = m.ReportedModel(name="a", state="idle", detail=character * 500).detail
    taken = len(json.dumps(said, ensure_ascii=False).encode()) - 2
    assert m.MAX_REPORTED_DETAIL_BYTES - 4 < taken <= m.MAX_REPORTED_DETAIL_BYTES


@given(st.text(max_size=400) | st.text(alphabet='"\\\x1b\n\u202e\U0001f600\xe4', max_size=400))
def test_a_text_for_people_always_fits_and_is_printable(text):
    alarm = m.AlarmEvent(boot="0" * 16, seq=1, at_unix_ms=1, code="x", detail=text)
    said = m.ReportedModel(name="a", state="idle", detail=text)
    for detail, cap in (
        (alarm.detail, m.MAX_DETAIL_BYTES),
        (said.detail, m.MAX_REPORTED_DETAIL_BYTES),
    ):
        assert detail.isprintable()
        assert len(json.dumps(detail, ensure_ascii=False).encode()) - 2 <= cap
    if len(json.dumps(text).encode()) - 2 <= m.MAX_REPORTED_DETAIL_BYTES and text.isprintable():
        assert said.detail == alarm.detail == text


def test_a_text_with_half_a_character_does_not_stop_the_message():
    alarm = m.AlarmEvent(boot="0" * 16, seq=1, at_unix_ms=1, code="x", detail="a\ud800\x00b")
    assert codec.decode(m.AlarmEvent, codec.encode(alarm)).detail == "a  b"


def test_a_machine_that_has_been_up_for_years_can_say_so():
    vitals = full("telemetry/vitals") | {"uptime_s": 10 * 365 * 86_400.0}
    assert decode("telemetry/vitals", vitals).uptime_s == 10 * 365 * 86_400


def test_the_names_of_an_update_are_from_and_to():
    event = decode("event/update", full("event/update"))
    said = json.loads(codec.encode(event))
    assert said["from"] == event.from_
    assert "from_" not in said


def test_every_code_and_outcome_can_be_said():
    for code in Code:
        assert m.QuarantinedBundle(manifest="a" * 64, code=code).code == code
    for outcome in Outcome:
        said = (
            decode("reported", full("reported")).models[0].model_copy(update={"outcome": outcome})
        )
        assert json.loads(said.model_dump_json())["outcome"] == outcome.value


def test_messages_do_not_change():
    message = decode("desired", full("desired"))
    with pytest.raises(ValidationError):
        message.generation = 1
    with pytest.raises(ValidationError):
        message.models[0].guards.error_ratio = 1.0
