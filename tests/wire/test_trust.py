import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import codec, trust
from wire import messages as m
from wire.errors import PeerError

SIGNATURE = trust.Signature(keyid="a" * 64, sig="b" * 128)
BODY = codec.encode(m.Desired(device="cam-01", generation=7))


def test_what_was_sealed_opens_to_the_very_bytes_that_were_signed():
    opened = trust.open_sealed(trust.seal(BODY, SIGNATURE))
    assert opened == trust.SignedText(BODY, SIGNATURE)
    assert opened.signed_bytes == b"modelfleet desired 1\n" + BODY


def test_each_line_is_json_for_anybody_who_looks():
    first, second = trust.seal(BODY, SIGNATURE).split(b"\n")
    assert json.loads(first)["device"] == "cam-01"
    assert json.loads(second)["keyid"] == "a" * 64


def test_the_longest_signature_fits_beside_the_longest_body():
    assert len(codec.encode(SIGNATURE)) <= trust.MAX_SIGNATURE_BYTES
    body = b'"' + b"x" * (codec.MAX_CONTROL_BYTES - 2) + b'"'
    assert trust.open_sealed(trust.seal(body, SIGNATURE)).body == body


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "unsigned"),
        (BODY, "unsigned"),
        (BODY + b"\n", "payload_not_json"),
        (BODY + b"\n{}", "payload_invalid"),
        (BODY + b"\n" + codec.encode(SIGNATURE) + b"\n" + codec.encode(SIGNATURE), None),
        (BODY + b'\n{"keyid":"' + b"a" * 64 + b'","sig":"' + b"B" * 128 + b'"}', "payload_invalid"),
        (
            b"x" * (codec.MAX_CONTROL_BYTES + 1) + b"\n" + codec.encode(SIGNATURE),
            "payload_too_large",
        ),
        (BODY + b"\n" + b" " * 10_000, "payload_too_large"),
    ],
)
def test_what_is_not_two_such_lines_is_refused_with_a_code(payload, code):
    with pytest.raises(PeerError) as refused:
        trust.open_sealed(payload)
    assert code is None or refused.value.code == code


@given(st.binary(max_size=600))
def test_no_bytes_make_it_raise_anything_else(payload):
    with contextlib.suppress(PeerError):
        trust.open_sealed(payload)


def test_a_text_of_two_lines_is_never_signed():
    with pytest.raises(ValueError, match="one line"):
        trust.seal(b"{}\n{}", SIGNATURE)


def test_each_release_has_a_target_that_its_model_alone_may_sign():
    assert trust.target_path("digits", "1.0.0") == "digits/1.0.0/manifest.json"
    assert trust.model_paths("digits") == ("digits/*/manifest.json",)
    assert trust.model_role("digits") == "model-digits"
