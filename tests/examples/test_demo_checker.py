"""The judge of the demo believes a recorded good run, and sees through each single falsification."""

import ast
import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.examples import loop_tampering

ROOT = Path(__file__).parents[2]
RECORDED = json.loads((ROOT / "tests/golden/demo_evidence.json").read_text())
GOOD, BAD, BETTER = (RECORDED["versions"][role] for role in ("good", "bad", "better"))

Tampering = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def checker() -> Iterator[ModuleType]:
    """The demo's modules are scripts beside each other, found by path only while they load."""
    folder = str(ROOT / "examples" / "demo")
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        import checker as module

        yield module
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


def failed(checker: ModuleType, evidence: dict[str, Any]) -> set[str]:
    return {finding.name for finding in checker.judge(evidence) if not finding.is_proved}


def canary(evidence: dict[str, Any]) -> str:
    members = evidence["api"]["rollouts"][BAD]["members"]
    return next(member["device"] for member in members if member["phase"] == 0)


def other(evidence: dict[str, Any]) -> str:
    return next(device for device in evidence["devices"] if device != canary(evidence))


def sent(evidence: dict[str, Any], channel: str, device: str | None = None) -> list[dict[str, Any]]:
    """Return the live messages on a channel, in order."""
    return [
        message
        for message in evidence["wire"]["messages"]
        if message["topic"].endswith(f"/{channel}")
        and (device is None or message["topic"].split("/")[3] == device)
    ]


def speaks_of(message: dict[str, Any], version: str) -> bool:
    return any(model.get("version") == version for model in message["body"]["models"])


def runs(evidence: dict[str, Any], device: str, version: str) -> list[dict[str, Any]]:
    return [
        run
        for client, all_runs in evidence["requests"].items()
        for run in all_runs
        if client.startswith(f"{device}/") and run["version"] == version
    ]


def the_observer_lost_its_connection(e: dict[str, Any]) -> None:
    e["disconnects"] = 1


def a_device_reports_another_manifest(e: dict[str, Any]) -> None:
    for message in sent(e, "reported", other(e)):
        for model in message["body"]["models"]:
            if (model["active"] or {}).get("version") == BETTER:
                model["active"]["manifest"] = "0" * 64
                return


def a_file_arrived_altered(e: dict[str, Any]) -> None:
    e["wire"]["content"][GOOD]["model.onnx"] = "0" * 64


def a_chunk_is_not_what_its_topic_says(e: dict[str, Any]) -> None:
    e["wire"]["chunks"][0]["is_proven"] = False


def a_chunk_was_sent_to_each_device(e: dict[str, Any]) -> None:
    e["wire"]["chunks"][0]["publishes"] = 3


def a_device_answers_at_random(e: dict[str, Any]) -> None:
    for run in runs(e, other(e), BETTER):
        run["right"] = run["count"] // 10


def a_client_saw_an_old_version_again(e: dict[str, Any]) -> None:
    client = f"{other(e)}/tcp"
    last = e["requests"][client][-1]
    e["requests"][client] += [{**last, "version": BETTER}, dict(last)]


def a_device_that_is_no_canary_answered_500(e: dict[str, Any]) -> None:
    all_runs = e["requests"][f"{other(e)}/unix"]
    failure = {"version": None, "status": 500, "count": 1, "with_16": 1, "right": 0}
    all_runs.insert(1, {**all_runs[0], **failure})


def the_canary_failed_long_after(e: dict[str, Any]) -> None:
    failure = {"version": None, "status": 500, "count": 1, "with_16": 1, "right": 0}
    all_runs = e["requests"][f"{canary(e)}/tcp"]
    all_runs.append({**all_runs[-1], **failure})


def the_canary_refused_a_row_it_can_serve(e: dict[str, Any]) -> None:
    all_runs = e["requests"][f"{canary(e)}/tcp"]
    next(run for run in all_runs if run["version"] is None)["with_16"] -= 1


def a_connection_broke(e: dict[str, Any]) -> None:
    all_runs = e["requests"][f"{canary(e)}/tcp"]
    next(run for run in all_runs if run["version"] is None)["status"] = 0


def all_were_asked_at_once(e: dict[str, Any]) -> None:
    messages = e["wire"]["messages"]
    asked = [message for message in sent(e, "desired") if speaks_of(message, BETTER)]
    first, last = messages.index(asked[0]), messages.index(asked[-1])
    messages.insert(first, messages.pop(last))


def a_phase_took_two_devices(e: dict[str, Any]) -> None:
    e["api"]["rollouts"][GOOD]["phases"][0]["size"] = 2


def the_canary_was_told_to_return(e: dict[str, Any]) -> None:
    """The order to leave the bad model comes before the report of the rollback."""
    device, messages = canary(e), e["wire"]["messages"]
    ended = next(
        message
        for message in sent(e, "reported", device)
        for model in message["body"]["models"]
        if (model["target"] or {}).get("version") == BAD and model["outcome"]
    )
    order = copy.deepcopy(
        next(message for message in sent(e, "desired", device) if speaks_of(message, GOOD))
    )
    messages.insert(messages.index(ended), order)


def the_canary_gave_another_reason(e: dict[str, Any]) -> None:
    for message in sent(e, "reported", canary(e)):
        for model in message["body"]["models"]:
            if (model["target"] or {}).get("version") == BAD and model["outcome"]:
                model["code"] = "runtime_died"


def the_command_claimed_success(e: dict[str, Any]) -> None:
    next(c for c in e["commands"] if c["name"] == f"rollout {BAD}")["exit_code"] = 0


def the_rollout_went_on(e: dict[str, Any]) -> None:
    e["api"]["rollouts"][BAD]["state"] = "finished"


def another_device_was_sent_the_bad_model(e: dict[str, Any]) -> None:
    device = other(e)
    order = copy.deepcopy(next(m for m in sent(e, "desired", canary(e)) if speaks_of(m, BAD)))
    order["topic"] = f"fleet/v1/device/{device}/desired"
    order["body"]["device"] = device
    e["wire"]["messages"].append(order)


def an_agent_was_restarted(e: dict[str, Any]) -> None:
    e["processes"]["settled"][-1]["supervisors"][other(e)] = [99999, 1]


def a_runtime_loaded_the_new_model_in_place(e: dict[str, Any]) -> None:
    settled, device = e["processes"]["settled"], other(e)
    settled[-1]["runtimes"][device] = settled[-2]["runtimes"][device]


def another_device_swapped_during_the_bad_rollout(e: dict[str, Any]) -> None:
    looks = {look["step"]: look for look in e["processes"]["settled"]}
    looks[BAD]["runtimes"][other(e)] = [[99999, 1]]


def the_canary_tried_it_in_its_old_process(e: dict[str, Any]) -> None:
    span = next(step for step in e["steps"] if step["name"] == BAD)
    e["processes"]["children"] = [
        child
        for child in e["processes"]["children"]
        if not (child["device"] == canary(e) and span["from_s"] <= child["first_s"] <= span["to_s"])
    ]


def a_device_counted_no_request(e: dict[str, Any]) -> None:
    for message in sent(e, "telemetry/inference", other(e)):
        message["body"]["request_count"] = 0


def a_device_invented_requests(e: dict[str, Any]) -> None:
    for message in sent(e, "telemetry/inference", other(e)):
        if message["body"]["version"] == GOOD:
            message["body"]["request_count"] += 1_000_000


def the_store_has_a_record_twice(e: dict[str, Any]) -> None:
    rows = e["api"]["records"][other(e)]
    rows.append(dict(rows[0]))


def the_store_lost_a_record(e: dict[str, Any]) -> None:
    e["api"]["records"][other(e)].pop(0)


def the_store_made_a_record_up(e: dict[str, Any]) -> None:
    rows = e["api"]["records"][other(e)]
    rows.append({**rows[0], "seq": 10**9})


def finding(e: dict[str, Any]) -> dict[str, Any]:
    """Return the one about the camera that got dirty."""
    return next(one for one in e["drift"]["after"] if one["who"] == e["drift"]["device"])


def a_finding_on_another_device(e: dict[str, Any], version: str) -> dict[str, Any]:
    device = next(device for device in e["devices"] if device != e["drift"]["device"])
    return {**finding(e), "id": 99, "who": device, "version": version}


def the_dirty_camera_was_not_found(e: dict[str, Any]) -> None:
    e["drift"]["after"] = []


def a_clean_camera_was_found_too(e: dict[str, Any]) -> None:
    e["drift"]["after"].append(a_finding_on_another_device(e, BETTER))


def the_old_release_was_found_once_it_was_back(e: dict[str, Any]) -> None:
    e["drift"]["after"].append({**finding(e), "id": 99, "version": GOOD})


def the_whole_fleet_was_found(e: dict[str, Any]) -> None:
    finding(e).update(level="fleet", who="")


def one_cause_was_found_twice(e: dict[str, Any]) -> None:
    e["drift"]["after"].append({**finding(e), "id": 99})


def a_clean_pixel_was_found(e: dict[str, Any]) -> None:
    finding(e)["features"].append("X[0]")


def only_an_output_was_found(e: dict[str, Any]) -> None:
    finding(e)["features"] = ["label"]


def it_was_found_before_the_camera_was_dirty(e: dict[str, Any]) -> None:
    finding(e)["opened_unix_ms"] = e["drift"]["dirty_unix_ms"] - 1


def a_clean_camera_was_found_dirty(e: dict[str, Any]) -> None:
    false = a_finding_on_another_device(e, BETTER)
    e["drift"]["before"].append(false)
    e["drift"]["after"].append(false)


def a_false_alarm_about_the_first_release_is_over(e: dict[str, Any]) -> None:
    over_unix_ms = e["drift"]["dirty_unix_ms"] - 1000
    false = {**a_finding_on_another_device(e, GOOD), "closed_unix_ms": over_unix_ms}
    e["drift"]["before"].append(false)
    e["drift"]["after"].append(false)


def a_device_was_hardly_looked_at(e: dict[str, Any]) -> None:
    e["drift"]["row_counts"][BETTER][other(e)] = 20


def a_device_stayed_behind(e: dict[str, Any]) -> None:
    e["api"]["devices"]["rollback"][other(e)]["models"][0]["active_version"] = BETTER


def the_rollback_failed(e: dict[str, Any]) -> None:
    next(c for c in e["commands"] if c["name"] == "rollback")["exit_code"] = 1


def the_broker_kept_an_older_state(e: dict[str, Any]) -> None:
    e["wire"]["retained"][f"fleet/v1/device/{other(e)}/reported"]["generation"] -= 1


def the_broker_believes_a_device_offline(e: dict[str, Any]) -> None:
    e["wire"]["retained"][f"fleet/v1/device/{other(e)}/presence"]["state"] = "offline"


def an_agent_had_to_be_killed(e: dict[str, Any]) -> None:
    e["processes"]["exit_codes"][other(e)] = None


def a_runtime_outlived_its_agent(e: dict[str, Any]) -> None:
    e["processes"]["left_over"] = [[other(e), 99999, 1]]


FALSIFIED: dict[str, tuple[Tampering, ...]] = {
    **loop_tampering.FALSIFIED,
    "observer_saw_everything": (the_observer_lost_its_connection,),
    "bundle_is_what_devices_report": (a_device_reports_another_manifest,),
    "content_travelled_in_chunks": (a_file_arrived_altered, a_chunk_is_not_what_its_topic_says),
    "each_chunk_published_once": (a_chunk_was_sent_to_each_device,),
    "right_labels": (a_device_answers_at_random,),
    "versions_in_order": (a_client_saw_an_old_version_again,),
    "no_other_request_failed": (
        a_device_that_is_no_canary_answered_500,
        the_canary_failed_long_after,
        the_canary_refused_a_row_it_can_serve,
        a_connection_broke,
    ),
    "phases_in_order": (all_were_asked_at_once, a_phase_took_two_devices),
    "canary_rolled_back_by_itself": (the_canary_was_told_to_return, the_canary_gave_another_reason),
    "rollout_halted": (the_command_claimed_success, the_rollout_went_on),
    "others_never_ran_the_bad_model": (another_device_was_sent_the_bad_model,),
    "supervisors_unchanged": (an_agent_was_restarted,),
    "runtime_replaced_at_each_swap": (
        a_runtime_loaded_the_new_model_in_place,
        another_device_swapped_during_the_bad_rollout,
        the_canary_tried_it_in_its_old_process,
    ),
    "telemetry_counts_the_requests": (a_device_counted_no_request, a_device_invented_requests),
    "store_has_each_record_once": (
        the_store_has_a_record_twice,
        the_store_lost_a_record,
        the_store_made_a_record_up,
    ),
    "drift_is_found": (
        the_dirty_camera_was_not_found,
        a_clean_camera_was_found_too,
        the_old_release_was_found_once_it_was_back,
        the_whole_fleet_was_found,
        one_cause_was_found_twice,
        a_clean_pixel_was_found,
        only_an_output_was_found,
        it_was_found_before_the_camera_was_dirty,
    ),
    "no_false_alarm": (
        a_clean_camera_was_found_dirty,
        a_false_alarm_about_the_first_release_is_over,
        a_device_was_hardly_looked_at,
    ),
    "rollback_returned_every_device": (a_device_stayed_behind, the_rollback_failed),
    "broker_agrees_with_api": (
        the_broker_kept_an_older_state,
        the_broker_believes_a_device_offline,
    ),
    "all_ended_in_good_order": (an_agent_had_to_be_killed, a_runtime_outlived_its_agent),
}
CASES = [(claim, tampering) for claim, all_of_it in FALSIFIED.items() for tampering in all_of_it]


def test_recorded_run_proves_every_claim(checker: ModuleType) -> None:
    assert failed(checker, RECORDED) == set()


def test_every_claim_is_falsified_by_something(checker: ModuleType) -> None:
    assert FALSIFIED.keys() == checker.CLAIMS.keys()


@pytest.mark.parametrize(
    ("claim", "tampering"), CASES, ids=[tampering.__name__ for _, tampering in CASES]
)
def test_one_false_fact_fails_exactly_its_claim(
    checker: ModuleType, claim: str, tampering: Tampering
) -> None:
    evidence = copy.deepcopy(RECORDED)
    tampering(evidence)
    assert evidence != RECORDED
    assert failed(checker, evidence) == {claim}


@pytest.mark.parametrize("part", sorted(RECORDED.keys() - {"broker"}))
def test_missing_evidence_proves_nothing(checker: ModuleType, part: str) -> None:
    evidence = {key: value for key, value in RECORDED.items() if key != part}
    assert failed(checker, evidence)


def test_judge_does_not_alter_the_evidence(checker: ModuleType) -> None:
    evidence = copy.deepcopy(RECORDED)
    checker.judge(evidence)
    assert evidence == RECORDED


def test_accuracy_over_time_is_drawn(checker: ModuleType, tmp_path: Path) -> None:
    plot = importlib.import_module("plot")
    plot.draw(RECORDED["loop"], tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_imports_nothing_of_the_project() -> None:
    for path in (ROOT / "examples" / "demo").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            ours = {name.split(".")[0] for name in names} & {"agent", "converter", "fleet", "wire"}
            assert not ours, f"{path.name} imports {ours}"
