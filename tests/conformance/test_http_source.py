"""A source of metadata that is endless, slow, silent or wrong ends in words, and in time."""

import threading

import pytest

from tests.conformance.http_source import HttpSource
from tests.conformance.server import begin, reply, serving
from wire.errors import ConfigError, TransferError

DRIP_S = 0.05


@pytest.fixture
def end():
    """Ends what the servers of a test would send for ever."""
    event = threading.Event()
    yield event
    event.set()


def drip(handler, end, piece=b"x"):
    while not end.wait(DRIP_S):
        handler.wfile.write(piece)
        handler.wfile.flush()


def test_a_file_comes_as_it_is():
    data = bytes(range(256)) * 300
    with serving(lambda h: reply(h, data)) as url:
        assert b"".join(HttpSource(url)("1.root.json")) == data


@pytest.mark.parametrize("path", ["", "/deep/down", "/deep/down/"])
def test_names_are_added_to_the_path(path):
    asked = []

    def answer(handler):
        asked.append(handler.path)
        reply(handler, b"")

    with serving(answer) as url:
        list(HttpSource(url + path)("1.a%2Fb.json"))
    assert asked == [f"{path.strip('/')}/1.a%2Fb.json".lstrip("/")]


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_not_there_is_known_as_that(status):
    with serving(lambda h: h.send_error(status)) as url, pytest.raises(LookupError):
        list(HttpSource(url)("9.root.json"))


@pytest.mark.parametrize("status", [301, 500, 204])
def test_any_other_answer_is_no_answer(status):
    with serving(lambda h: h.send_error(status)) as url:
        refuses(HttpSource(url), f"answers {status}")


def refuses(source, words):
    with pytest.raises(TransferError, match=words) as caught:
        list(source("timestamp.json"))
    assert caught.value.code == "trust_unavailable"


def test_one_byte_now_and_then_is_too_slow(end):
    def answer(handler):
        begin(handler, length=100_000)
        drip(handler, end)

    with serving(answer) as url:
        refuses(HttpSource(url, pace_s=0.5), r"bytes in \d+ s are too slow")
        end.set()


def test_a_body_that_keeps_its_pace_must_still_end(end):
    def answer(handler):
        begin(handler, length=10_000_000)
        drip(handler, end, b"x" * 4096)

    with serving(answer) as url:
        refuses(HttpSource(url, total_s=1, pace_s=0.3), "longer than 1 s")
        end.set()


def test_headers_must_come_to_an_end_too(end):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        drip(handler, end)  # one line of a head, which the library takes 64 kB of

    with serving(answer) as url:
        refuses(HttpSource(url, total_s=1), "longer than 1 s")
        end.set()


def test_a_server_that_says_nothing_is_left(end):
    with serving(lambda _: end.wait()) as url:
        refuses(HttpSource(url, pace_s=0.3), "timed out")
        end.set()


def test_a_body_that_is_cut_is_not_whole():
    with serving(lambda h: reply(h, b"{}", length=1000)) as url:
        refuses(HttpSource(url), "998 bytes are missing")


def test_a_closed_port_is_said_in_words():
    with serving(lambda _: None) as url:
        pass
    refuses(HttpSource(url), "refused")


@pytest.mark.parametrize("url", ["ftp://a/", "file:///etc/passwd", "a", "http://"])
def test_only_http_is_spoken(url):
    with pytest.raises(ConfigError):
        HttpSource(url)
