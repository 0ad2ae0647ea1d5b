"""Every door of the programs; `test_doors.py` compares it with the sources."""

from functools import cache

from tests.fuzz import (
    device_doors,
    enrolment_doors,
    fleet_doors,
    retrain_doors,
    signature_doors,
    wire_doors,
)


@cache
def all_doors():
    """Return the doors by name."""
    doors = [
        *wire_doors.doors(),
        *device_doors.doors(),
        *fleet_doors.doors(),
        *enrolment_doors.doors(),
        *signature_doors.doors(),
        *retrain_doors.doors(),
    ]
    table = {door.name: door for door in doors}
    assert len(table) == len(doors), "two doors have the same name"
    return table
