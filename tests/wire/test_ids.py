import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from wire import ids
from wire.errors import PeerError

HOSTILE = [
    "",
    "-a",
    "_a",
    ".",
    "..",
    "a.b",
    "a b",
    "a/b",
    "a+",
    "#",
    "$SYS",
    "a\n",
    "\na",
    "a\x00",
    "a\u0661",  # an Arabic digit: a digit to Unicode, none here
    "\uff41",  # a fullwidth letter
    "caf\u00e9",
    "\ud800",
    "a" * 65,
]

TYPES = {
    ids.NAME_PATTERN: TypeAdapter(ids.DeviceId),
    ids.VERSION_PATTERN: TypeAdapter(ids.Version),
    ids.DIGEST_PATTERN: TypeAdapter(ids.Digest),
    ids.BOOT_PATTERN: TypeAdapter(ids.BootId),
}


def is_accepted(adapter, text):
    try:
        return adapter.validate_python(text) == text
    except ValidationError:
        return False


@given(st.from_regex(ids.NAME_PATTERN, fullmatch=True))
def test_a_name_is_returned_as_it_is(text):
    assert ids.parse_name(text, what="device id") == text


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_name_is_refused_with_advice(text):
    with pytest.raises(PeerError) as refused:
        ids.parse_name(text, what="device id")
    assert refused.value.code == "invalid_name"
    assert "device id" in str(refused.value)
    assert refused.value.hint


@given(
    st.from_regex(ids.NAME_PATTERN, fullmatch=True),
    st.from_regex(ids.VERSION_PATTERN, fullmatch=True),
)
def test_a_release_is_what_its_text_says(name, version):
    release = ids.parse_release(f"{name}:{version}")
    assert release == (name, version)
    assert str(release) == f"{name}:{version}"


@pytest.mark.parametrize(
    "text",
    ["digits", "digits:", ":1.0", "digits:1:0", "a b:1", "a:1 0", "a:-1", "a:1\n", "a:" + "1" * 65],
)
def test_what_names_no_release_is_refused_with_advice(text):
    with pytest.raises(PeerError) as refused:
        ids.parse_release(text)
    assert refused.value.code == "invalid_release"
    assert "digits:1.0.0" in refused.value.hint


@pytest.mark.parametrize(
    "parse", [ids.parse_release, lambda text: ids.parse_name(text, what="name")]
)
def test_an_error_does_not_repeat_a_hostile_text_in_full(parse):
    with pytest.raises(PeerError) as refused:
        parse("\x1b[2J" * 10_000)
    assert len(str(refused.value)) < 500
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("pattern", TYPES)
@pytest.mark.parametrize("text", [*HOSTILE, "a", "0" * 16, "0" * 64, "0" * 64 + "\n"])
def test_functions_and_message_types_refuse_the_same(pattern, text):
    # re.fullmatch decides in one, the regular expressions of pydantic in the other.
    assert is_accepted(TYPES[pattern], text) == bool(re.fullmatch(pattern, text))


@given(st.sampled_from(list(TYPES)), st.text(max_size=70))
def test_functions_and_message_types_agree_on_any_text(pattern, text):
    assert is_accepted(TYPES[pattern], text) == bool(re.fullmatch(pattern, text))
