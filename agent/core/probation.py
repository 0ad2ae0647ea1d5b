"""Probation: evidence in, verdict out."""

from __future__ import annotations

from enum import Enum

from wire.messages import Guards, Probation


class Verdict(Enum):
    """What the evidence of a probation says so far."""

    KEEP_WATCHING = "keep_watching"
    CONFIRM = "confirm"
    BREACH = "breach"
    CHECK_GOLDEN = "check_golden"


def judge(
    rule: Probation, guards: Guards, *, served_s: float, request_count: int, failure_count: int
) -> Verdict:
    """Return the verdict on a model that serves on trial.

    A breach needs `guards.min_requests`, so that one unlucky request does not condemn a model;
    but a model whose share of failures is over the limit is not confirmed on fewer either: it is
    watched on, and condemned at `rule.max_s`. Without the traffic that `rule` asks for, the golden
    rows decide at `rule.max_s`.

    Args:
        rule: Durations, in seconds, and the inferences to serve.
        guards: The limit on the share of failures.
        served_s: How long the model has accepted requests.
        request_count: Requests that reached the model; bad requests of clients left out.
        failure_count: Those of them that were the model's fault.
    """
    is_over_limit = failure_count > guards.error_ratio * request_count
    if is_over_limit and (request_count >= guards.min_requests or served_s >= rule.max_s):
        return Verdict.BREACH
    has_traffic = request_count - failure_count >= rule.min_inferences
    if has_traffic and not is_over_limit and served_s >= rule.min_s:
        return Verdict.CONFIRM
    if served_s >= rule.max_s:
        return Verdict.CHECK_GOLDEN
    return Verdict.KEEP_WATCHING
