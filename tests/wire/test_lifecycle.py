import re

import pytest

from wire import messages as m
from wire.lifecycle import SUCCESSES, Code, Outcome, UpdateState


@pytest.mark.parametrize("words", [UpdateState, Outcome, Code], ids=lambda kind: kind.__name__)
def test_words_are_snake_case_and_mean_one_thing_each(words):
    # `__members__` has aliases too: two names of one value.
    values = [word.value for word in words.__members__.values()]
    assert len(set(values)) == len(values)
    for name, word in words.__members__.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", word.value)
        assert name == word.value.upper()
        assert str(word) == word.value


def test_every_code_fits_a_message():
    assert all(re.fullmatch(m.CODE_PATTERN, code) for code in Code)


def test_successes_are_the_two_ways_of_being_confirmed():
    assert {o for o in Outcome if o.value.startswith("confirmed")} == SUCCESSES
