"""The judge of the demo: named claims over the evidence, each with the sentence that it proves. Pure.

A claim raises `Disproved` with what contradicts it. Each reads its own part of the evidence, so that
one false fact fails exactly one claim; `tests/examples/test_demo_checker.py` falsifies them in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import claims_drift
import claims_fleet
import claims_loop
import claims_wire
from evidence import Evidence
from verdict import Disproved

CLAIMS: dict[str, Callable[[Evidence], str]] = {
    "observer_saw_everything": claims_wire.observer_saw_everything,
    "bundle_is_what_devices_report": claims_wire.bundle_is_what_devices_report,
    "content_travelled_in_chunks": claims_wire.content_travelled_in_chunks,
    "each_chunk_published_once": claims_wire.each_chunk_published_once,
    "right_labels": claims_fleet.right_labels,
    "versions_in_order": claims_fleet.versions_in_order,
    "no_other_request_failed": claims_fleet.no_other_request_failed,
    "phases_in_order": claims_wire.phases_in_order,
    "canary_rolled_back_by_itself": claims_wire.canary_rolled_back_by_itself,
    "rollout_halted": claims_fleet.rollout_halted,
    "others_never_ran_the_bad_model": claims_wire.others_never_ran_the_bad_model,
    "supervisors_unchanged": claims_fleet.supervisors_unchanged,
    "runtime_replaced_at_each_swap": claims_fleet.runtime_replaced_at_each_swap,
    "telemetry_counts_the_requests": claims_wire.telemetry_counts_the_requests,
    "store_has_each_record_once": claims_fleet.store_has_each_record_once,
    "drift_is_found": claims_drift.drift_is_found,
    "no_false_alarm": claims_drift.no_false_alarm,
    "rollback_returned_every_device": claims_fleet.rollback_returned_every_device,
    "labels_were_never_seen": claims_loop.labels_were_never_seen,
    "fleet_counts_right": claims_loop.fleet_counts_right,
    "accuracy_falls": claims_loop.accuracy_falls,
    "change_is_found": claims_loop.change_is_found,
    "low_accuracy_is_told": claims_loop.low_accuracy_is_told,
    "triggers_start_the_runs": claims_loop.triggers_start_the_runs,
    "gate_refuses_the_worse_model": claims_loop.gate_refuses_the_worse_model,
    "gate_passes_the_better_model": claims_loop.gate_passes_the_better_model,
    "accuracy_recovers": claims_loop.accuracy_recovers,
    "lineage_leads_to_the_rows": claims_loop.lineage_leads_to_the_rows,
    "broker_agrees_with_api": claims_fleet.broker_agrees_with_api,
    "all_ended_in_good_order": claims_fleet.all_ended_in_good_order,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one claim: `sentence` says what was proved, or what contradicts it."""

    name: str
    is_proved: bool
    sentence: str


def judge(evidence: Evidence) -> list[Finding]:
    """Return one finding per claim, in the order of `CLAIMS`.

    Evidence that lacks what a claim reads disproves that claim.
    """
    findings = []
    for name, claim in CLAIMS.items():
        try:
            findings.append(Finding(name, is_proved=True, sentence=claim(evidence)))
        except Disproved as exc:
            findings.append(Finding(name, is_proved=False, sentence=str(exc)))
        except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as exc:
            text = f"the evidence is incomplete: {type(exc).__name__} {exc}"
            findings.append(Finding(name, is_proved=False, sentence=text))
    return findings
