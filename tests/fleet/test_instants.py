"""Times as people write them."""

from datetime import datetime

import pytest
import typer

from fleet.cli.instants import parse_instant
from wire.errors import PeerError
from wire.ids import parse_alias, parse_release_or_alias

NOW = datetime(2026, 11, 26, 15, 30)  # noqa: DTZ001 - a Thursday, by this machine's zone


def ms(*then):
    return round(datetime(*then).timestamp() * 1000)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("2026-11-24T14:10", (2026, 11, 24, 14, 10)),
        ("2026-11-24 14:10:30", (2026, 11, 24, 14, 10, 30)),
        ("2026-11-24", (2026, 11, 24)),
        ("14:10", (2026, 11, 26, 14, 10)),
        ("15:31", (2026, 11, 25, 15, 31)),
        ("tue 14:10", (2026, 11, 24, 14, 10)),
        ("Tuesday 14:10", (2026, 11, 24, 14, 10)),
        ("thu 15:30", (2026, 11, 26, 15, 30)),
        ("thu 15:31", (2026, 11, 19, 15, 31)),
        ("fri 00:00", (2026, 11, 20)),
        ("90m", (2026, 11, 26, 14, 0)),
        ("0s", (2026, 11, 26, 15, 30)),
    ],
)
def test_a_time_is_the_last_one_that_was(text, then):
    assert parse_instant(text, ms(*NOW.timetuple()[:6]), option="--at") == ms(*then)


def test_a_time_may_name_its_zone():
    now = ms(2026, 11, 26, 15, 30)
    assert parse_instant("2026-11-24T14:10+02:00", now, option="--at") == 1_795_522_200_000
    assert parse_instant("2026-11-24T12:10Z", now, option="--at") == 1_795_522_200_000


@pytest.mark.parametrize(
    "text",
    ["", "soon", "24:00", "14:60", "xyz 14:10", "14", "2h30m", "1969-01-01", "9999999d", "tue"],
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(typer.BadParameter, match="is no time"):
        parse_instant(text, ms(*NOW.timetuple()[:6]), option="--at")


def test_what_is_still_to_come_is_refused():
    with pytest.raises(typer.BadParameter, match="still to come"):
        parse_instant("2026-11-27", ms(*NOW.timetuple()[:6]), option="--at")


def test_an_alias_stands_where_a_version_may():
    assert parse_alias("digits@champion") == ("digits", "champion")
    assert parse_release_or_alias("digits@champion") == ("digits", "@champion")
    assert parse_release_or_alias("digits:1.0.0") == ("digits", "1.0.0")


@pytest.mark.parametrize(
    "text", ["digits", "@champion", "digits@", "a@b@c", "a:1@b", "a@b:1", "a@@b"]
)
def test_what_names_no_release_is_refused(text):
    with pytest.raises(PeerError) as caught:
        parse_release_or_alias(text)
    assert caught.value.code in ("invalid_release", "invalid_alias")
