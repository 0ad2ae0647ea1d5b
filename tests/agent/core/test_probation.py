import pytest

from agent.core.probation import Verdict, judge
from wire.messages import Guards, Probation

RULE = Probation(min_s=10, max_s=60, min_inferences=5)
GUARDS = Guards(error_ratio=0.05, min_requests=20)


@pytest.mark.parametrize(
    ("served_s", "requests", "failures", "verdict"),
    [
        (0, 0, 0, Verdict.KEEP_WATCHING),
        (9, 1000, 0, Verdict.KEEP_WATCHING),
        (10, 5, 0, Verdict.CONFIRM),
        (10, 4, 0, Verdict.KEEP_WATCHING),
        (1, 20, 1, Verdict.KEEP_WATCHING),
        (1, 20, 2, Verdict.BREACH),
        (1, 19, 19, Verdict.KEEP_WATCHING),
        (10, 8, 3, Verdict.KEEP_WATCHING),
        (60, 8, 3, Verdict.BREACH),
        (60, 4, 0, Verdict.CHECK_GOLDEN),
        (60, 0, 0, Verdict.CHECK_GOLDEN),
        (10, 200, 10, Verdict.CONFIRM),
    ],
)
def test_verdicts(served_s, requests, failures, verdict):
    got = judge(RULE, GUARDS, served_s=served_s, request_count=requests, failure_count=failures)
    assert got is verdict
