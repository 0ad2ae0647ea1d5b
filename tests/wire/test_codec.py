"""What arrives is hostile: every payload becomes a message or a PeerError, and nothing else."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire import codec
from wire import messages as m
from wire.errors import PeerError

BOOT = "5f0c2b9d41e7a836"
GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "v1"
SAMPLES = {
    channel: json.loads((GOLDEN / f"{channel.replace('/', '-')}.json").read_bytes())
    for channel in codec.PAYLOADS
}
PRESENCE = b'{"v":1,"state":"online","boot":"%s","birth":1,"agent":"x"}' % BOOT.encode()

any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from([BOOT, "idle", "online", "a" * 64, "confirmed", 2**53, -1, 1e308]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


def refusal(payload, kind=m.Presence, **more):
    with pytest.raises(PeerError) as refused:
        codec.decode(kind, payload, **more)
    assert len(str(refused.value)) <= 400
    return refused.value.code


def within(text):
    """A presence with `text` as the value of a field that nobody knows."""
    return PRESENCE[:-1] + b',"new":' + text + b"}"


def test_the_payload_that_the_others_here_are_made_of_is_good():
    assert codec.decode(m.Presence, PRESENCE).birth == 1
    assert codec.decode(m.Presence, within(b"[1]")).birth == 1


def test_a_payload_at_its_cap_passes_and_one_byte_more_does_not():
    padded = PRESENCE + b" " * (codec.MAX_CONTROL_BYTES - len(PRESENCE))
    assert codec.decode(m.Presence, padded).state == "online"
    assert refusal(padded + b" ") == "payload_too_large"
    assert codec.decode(m.Presence, padded + b" ", max_bytes=len(padded) + 1).state == "online"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"{",
        b"\xff",
        b"\x00",
        b"online",
        b"'online'",
        b"\xef\xbb\xbf" + PRESENCE,  # a byte order mark
        PRESENCE.decode().encode("utf-16"),
        PRESENCE + PRESENCE,
        PRESENCE + b",",
        PRESENCE.replace(b"online", b"onl\xffine"),
        PRESENCE.replace(b'"x"', b'"\xed\xa0\x80"'),  # half a character, as UTF-8 forbids it
        PRESENCE.replace(b'"x"', b'"\xc0\x80"'),  # zero, overlong
        PRESENCE.replace(b'"x"', b'"\\ud800"'),  # half a character, escaped
        PRESENCE.replace(b'"x"', b'"a\nb"'),
        PRESENCE.replace(b"1", b"01"),
        PRESENCE.replace(b"1", b"+1"),
        PRESENCE.replace(b"1", b"0x1"),
        PRESENCE.replace(b"}", b",}"),
        PRESENCE.replace(b"}", b"/**/}"),
        within(b'"\\udfff"'),
        within(b"NaN"),
        within(b"Infinity"),
        within(b"1e999"),
        within(b"[-Infinity]"),
        within(b"1" * 5001),  # 10**5000: quadratic work to read it
        within(b"-" + b"9" * 5000),
        within(b'{"a":1,"a":1}'),
        within(b'[{"b":{"a":1,"\\u0061":2}}]'),  # the same key, spelled in two ways
        PRESENCE.replace(b"}", b',"v":1}'),
        PRESENCE.replace(b"}", b',"state":"offline"}'),
    ],
)
def test_what_is_not_json_in_every_respect_is_refused(payload):
    assert refusal(payload) == "payload_not_json"


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"1",
        b'"online"',
        b"[]",
        b"{}",
        PRESENCE.replace(b"online", b"ONLINE"),
        PRESENCE.replace(b'"x"', b"null"),
        PRESENCE.replace(BOOT.encode(), BOOT.upper().encode()),
        PRESENCE.replace(BOOT.encode(), BOOT.encode() + b"\\n"),
        PRESENCE.replace(b'"birth":1', b'"birth":1.0'),
        PRESENCE.replace(b'"birth":1', b'"birth":"1"'),
        PRESENCE.replace(b'"birth":1', b'"birth":true'),
        PRESENCE.replace(b'"birth":1', b'"birth":' + b"1" * 4000),
    ],
)
def test_json_that_is_no_presence_is_refused(payload):
    assert refusal(payload) == "payload_invalid"


@pytest.mark.parametrize("kind", codec.PAYLOADS.values(), ids=codec.PAYLOADS)
@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        within(b"[" * 100_000 + b"]" * 100_000),
        within(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ],
    ids=["open-arrays", "open-objects", "arrays", "arrays-within", "objects-within"],
)
def test_depth_does_not_exhaust_the_stack(kind, payload):
    assert refusal(payload, kind) == "payload_too_large"
    assert refusal(payload, kind, max_bytes=10**7) == "payload_not_json"


def test_depth_that_only_one_of_the_two_parsers_takes_is_refused_as_well():
    codes = {refusal(within(b"[" * n + b"]" * n)) for n in range(250, 1000, 50)}
    assert codes <= {"payload_invalid", "payload_not_json"}
    assert codec.decode(m.Presence, within(b"[" * 100 + b"]" * 100)).birth == 1


def test_a_fault_in_each_of_many_elements_is_told_once():
    payload = b'{"stored":[' + b"0," * 30_000 + b"0]}"
    with pytest.raises(PeerError) as refused:
        codec.decode(m.Ack, payload, max_bytes=codec.MAX_MESSAGE_BYTES)
    assert str(refused.value).startswith("Ack: stored.0: ")
    assert refused.value.__cause__.error_count() == 1


def test_an_error_names_the_message_and_the_place():
    desired = copy.deepcopy(SAMPLES["desired"])
    desired["models"][0]["guards"]["error_ratio"] = 1.5
    with pytest.raises(PeerError, match=r"^Desired: models\.0\.guards\.error_ratio: "):
        codec.decode(m.Desired, json.dumps(desired).encode())


def test_an_error_does_not_repeat_a_hostile_payload():
    payload = b'{"state":"' + b"\\u001b" * 1000 + b'"}'
    with pytest.raises(PeerError) as refused:
        codec.decode(m.Presence, payload)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("channel", codec.PAYLOADS)
def test_no_bytes_do_more_than_be_refused(channel):
    good = json.dumps(SAMPLES[channel]).encode()

    @settings(max_examples=40)
    @given(st.binary(max_size=60), st.integers(0, len(good)), st.integers(0, 20))
    def check(noise, at, width):
        for payload in (noise, good[:at] + noise + good[at + width :]):
            with contextlib.suppress(PeerError):
                codec.decode(codec.PAYLOADS[channel], payload)

    check()


@pytest.mark.parametrize("channel", codec.PAYLOADS)
def test_no_json_does_more_than_be_refused(channel):
    kind = codec.PAYLOADS[channel]

    @settings(max_examples=40)
    @given(st.data())
    def check(data):
        value = changed(SAMPLES[channel], data)
        try:
            message = codec.decode(kind, json.dumps(value).encode(), max_bytes=10**6)
        except PeerError:
            return
        assert codec.decode(kind, codec.encode(message)) == message

    check()


def changed(value, data):
    """Return `value` with something else at a place that `data` draws."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        if not keys:
            return data.draw(any_json)
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(inner[key], dict | list) or data.draw(st.booleans()):
            break
        inner = inner[key]
    match data.draw(st.sampled_from(["replace", "delete", "repeat"])):
        case "replace":
            inner[key] = data.draw(any_json)
        case "delete":
            del inner[key]
        case "repeat":
            inner[key] = [inner[key]] * data.draw(st.integers(0, 70))
    return value


def test_what_is_encoded_is_compact_and_in_utf8():
    alarm = m.AlarmEvent(boot=BOOT, seq=1, at_unix_ms=2, code="x", detail="zu heiß")
    payload = codec.encode(alarm)
    assert b"hei\xc3\x9f" in payload
    assert b": " not in payload
    assert b", " not in payload
