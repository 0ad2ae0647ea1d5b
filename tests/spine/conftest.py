"""The test bed as fixtures: real programs, real brokers, real models."""

import os

import pytest

from fleet.broker import find_broker
from tests.spine.bed import Bed
from tests.spine.models import Bundles
from wire.errors import ConfigError


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def make_bed(tmp_path, bundles):
    """Start a bed with a kind of broker; at the end, what its programs wrote is printed."""
    beds = []

    def make(kind, *, is_split=True, **more):
        try:
            find_broker(kind)
        except ConfigError as exc:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have this broker: {exc}")
            pytest.skip(f"NOT TESTED: {exc}")
        bed = Bed(tmp_path / f"bed-{len(beds)}", kind, bundles, is_split=is_split, **more)
        beds.append(bed)
        bed.start()
        return bed

    yield make
    for bed in beds:
        bed.put_away()


@pytest.fixture(params=["mosquitto", "nats"])
def bed(request, make_bed):
    """A bed whose broker and controller can be ended one without the other."""
    return make_bed(request.param)
