"""Error families say who must act; codes are for programs, and some of them cross the wire."""

import ast
import re
from itertools import permutations
from pathlib import Path

import pytest

from wire import errors
from wire import messages as m

ROOT = Path(__file__).parents[2]
FAMILIES = [
    errors.PeerError,
    errors.TransferError,
    errors.BundleError,
    errors.StorageError,
    errors.ConfigError,
]


def codes():
    """Return all codes that are written down where an error of a family is made."""
    names = {family.__name__ for family in FAMILIES}
    found = {}
    for package in ("agent", "converter", "fleet", "wire"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(func=ast.Name(id=name), keywords=keywords) if name in names:
                        for keyword in keywords:
                            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                                found[keyword.value.value] = where
    return found


CODES = codes()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_is_a_sentence_a_code_and_advice(family):
    error = family("the disk is full", code="disk_full", hint="free some space")
    assert isinstance(error, errors.ModelfleetError)
    assert (str(error), error.code, error.hint) == (
        "the disk is full",
        "disk_full",
        "free some space",
    )
    assert family("x", code="y").hint == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_has_a_code(family):
    with pytest.raises(TypeError):
        family("the disk is full")


def test_no_family_is_another_one():
    assert not any(issubclass(one, two) for one, two in permutations(FAMILIES, 2))
    assert set(FAMILIES) == set(errors.ModelfleetError.__subclasses__())


def test_the_codes_were_found():
    assert {"payload_not_json", "invalid_name", "disk_full"} <= set(CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_fits_the_messages_that_may_carry_it(code):
    assert re.fullmatch(m.CODE_PATTERN, code), CODES[code]
