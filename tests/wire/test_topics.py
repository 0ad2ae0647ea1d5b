import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from agent.core.fetch_plan import WINDOW as CHUNK_WINDOW
from wire import codec, topics
from wire.ids import DIGEST_PATTERN, NAME_PATTERN

DEVICE = "cam-01"
OTHER = "cam-02"

name = st.from_regex(NAME_PATTERN, fullmatch=True)
topic = st.one_of(
    st.builds(topics.Presence, name),
    st.builds(topics.Desired, name),
    st.builds(topics.Reported, name),
    st.builds(topics.Event, name, st.sampled_from(topics.EVENT_KINDS)),
    st.builds(topics.Telemetry, name, st.sampled_from(topics.TELEMETRY_KINDS)),
    st.builds(topics.Ack, name),
    st.builds(topics.Feedback, name),
    st.builds(topics.Chunk, st.from_regex(DIGEST_PATTERN, fullmatch=True)),
    st.builds(topics.Trust, st.from_regex(topics.TRUST_PATTERN, fullmatch=True)),
    st.builds(topics.ModelTrust, name),
    st.just(topics.ControllerPresence()),
    st.just(topics.ControllerAlert()),
)


def every_topic(device):
    return [
        topics.Presence(device),
        topics.Desired(device),
        topics.Reported(device),
        *(topics.Event(device, kind) for kind in topics.EVENT_KINDS),
        *(topics.Telemetry(device, kind) for kind in topics.TELEMETRY_KINDS),
        topics.Ack(device),
        topics.Feedback(device),
        topics.Chunk("a" * 64),
        topics.Trust("root-123456789"),
        topics.ModelTrust(device),
        topics.ControllerPresence(),
        topics.ControllerAlert(),
    ]


def matched(filters, candidates):
    return {t for t in candidates if any(topic_matches_sub(f, t.text) for f in filters)}


def test_these_tests_know_every_kind_of_topic():
    known = {type(t) for t in every_topic(DEVICE)}
    assert known == set(get_args(topics.Topic)) - {topics.Unknown}
    assert set(topics.EVENT_KINDS) == set(get_args(topics.EventKind))
    assert set(topics.TELEMETRY_KINDS) == set(get_args(topics.TelemetryKind))


@given(topic)
def test_a_topic_is_what_its_text_parses_to(built):
    assert topics.parse(built.text) == built


@pytest.mark.parametrize("built", every_topic("d" * 64), ids=lambda t: t.text[-30:])
def test_the_longest_topics_fit_the_strictest_broker(built):
    assert built.text.count("/") <= 7
    assert len(built.text.encode()) <= topics.MAX_TOPIC_BYTES == 128


@given(topic)
def test_levels_are_made_of_the_characters_that_pass_everywhere(built):
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", level) for level in built.text.split("/"))


@given(st.text(max_size=150) | st.from_regex(r"fleet/v1/[a-z]{0,10}(/.{0,12}){0,5}"))
def test_a_text_is_unknown_or_the_topic_of_that_text(text):
    assert topics.parse(text).text == text


@given(topic, st.data())
def test_one_wrong_character_makes_no_other_topic_of_it(built, data):
    at = data.draw(st.integers(0, len(built.text)))
    width = data.draw(st.integers(0, 1))
    wrong = data.draw(st.sampled_from(["/", "+", "#", " ", "\n", "\x00", ".", "\u0661", "\ud800"]))
    text = built.text[:at] + wrong + built.text[at + width :]
    if text != built.text:
        assert topics.parse(text) == topics.Unknown(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "fleet",
        "fleet/v1",
        "fleet/v1/device",
        "fleet/v1/device/cam-01",
        "fleet/v1/device//desired",
        "fleet/v1/device/../desired",
        "fleet/v1/device/+/desired",
        "fleet/v1/device/cam-01/Desired",
        "fleet/v1/device/cam-01/desired/",
        "fleet/v1/device/cam-01/desired\n",
        "fleet/v1/device/cam-01\n/desired",
        "fleet/v1/device/cam-01/event",
        "fleet/v1/device/cam-01/event/other",
        "fleet/v1/device/cam-01/event/inference",
        "fleet/v1/device/cam-01/telemetry/update",
        "fleet/v1/device/" + "d" * 65 + "/desired",
        "fleet/v2/device/cam-01/desired",
        "/fleet/v1/device/cam-01/desired",
        "$share/g/fleet/v1/device/cam-01/desired",
        "fleet/v1/chunk/" + "A" * 64,
        "fleet/v1/chunk/" + "a" * 63,
        "fleet/v1/chunk/" + "a" * 64 + "\n",
        "fleet/v1/trust",
        "fleet/v1/trust/root",
        "fleet/v1/trust/root-0",
        "fleet/v1/trust/root-1234567890",
        "fleet/v1/trust/model",
        "fleet/v1/trust/model/../digits",
        "fleet/v1/controller",
        "fleet/v1/controller/presence/x",
        "x" * 65_536,
    ],
)
def test_what_is_outside_the_grammar_is_unknown(text):
    assert topics.parse(text) == topics.Unknown(text)


def test_the_controller_hears_all_that_devices_write_and_nothing_else():
    both = [*every_topic(DEVICE), *every_topic(OTHER)]
    heard = matched(topics.CONTROLLER_FILTERS, both)
    assert heard == {t for t in both if t.writer == "device"}


def test_a_device_hears_what_the_controller_writes_to_it_and_nothing_of_others():
    both = {*every_topic(DEVICE), *every_topic(OTHER)}
    heard = matched(topics.device_filters(DEVICE), both)
    own = {topics.Desired(DEVICE), topics.Ack(DEVICE), topics.Feedback(DEVICE)}
    everybodys = {t for t in both if isinstance(t, (topics.Trust, topics.ControllerPresence))}
    assert heard == own | everybodys


def test_subscriptions_stay_within_the_limits_of_the_strictest_broker():
    assert len(topics.CONTROLLER_FILTERS) <= topics.MAX_FILTERS_PER_SUBSCRIBE == 8
    assert len(topics.device_filters(DEVICE)) <= topics.MAX_FILTERS_PER_SUBSCRIBE
    assert len(topics.device_filters(DEVICE)) + CHUNK_WINDOW <= topics.MAX_SUBSCRIPTIONS == 50


def test_state_is_retained_and_records_are_not():
    kept = {type(t) for t in every_topic(DEVICE) if t.retain}
    passing = {topics.Event, topics.Telemetry, topics.Ack, topics.Feedback, topics.ControllerAlert}
    assert kept == {type(t) for t in every_topic(DEVICE)} - passing
    assert {t.qos for t in every_topic(DEVICE)} == {1}


def test_every_topic_but_chunks_and_signed_documents_has_a_payload_type():
    channels = {codec.channel_of(t) for t in every_topic(DEVICE)}
    assert channels == {None, *codec.PAYLOADS}
    without = {type(t) for t in every_topic(DEVICE) if codec.channel_of(t) is None}
    assert without == {topics.Chunk, topics.Trust, topics.ModelTrust}
    assert codec.channel_of(topics.Unknown("fleet/v1/x")) is None
