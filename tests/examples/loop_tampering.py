"""False facts about the demo's loop, by the claim that each of them must fail, and no other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Tampering = Callable[[dict[str, Any]], None]
FAR_FROM_ANY = "0" * 64


def loop(e: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = e["loop"]
    return found


def run(e: dict[str, Any], role: str) -> dict[str, Any]:
    found: dict[str, Any] = loop(e)["runs"][role]
    return found


def measured(e: dict[str, Any], when: str) -> dict[str, Any]:
    found: dict[str, Any] = loop(e)["measured"][when]
    return found


def say_measured(e: dict[str, Any], when: str, low: float, value: float, high: float) -> None:
    """Have all that counts agree on another accuracy, so that it alone is false."""
    one = measured(e, when)
    one["right_count"] = round(value * one["asked_count"])
    exact = one["right_count"] / one["asked_count"]
    one["accuracy"] = {"low": low, "value": exact, "high": high}


def speak_of(e: dict[str, Any], manifest: str) -> None:
    """Add a message in which a device is to serve a release."""
    messages = e["wire"]["messages"]
    order = copy.deepcopy(next(one for one in messages if one["topic"].endswith("/desired")))
    order["body"]["models"][0] |= {"manifest": manifest, "version": "9.9.9"}
    messages.append(order)


# -- labels that no model saw


def a_picture_was_learnt_from_as_well(e: dict[str, Any]) -> None:
    rows = loop(e)["rows"]
    rows["loose"]["pictures"].append(rows["unseen"][0])


def the_first_model_learnt_from_a_file_that_nobody_knows(e: dict[str, Any]) -> None:
    run(e, "first")["data"]["sources"][0]["sha256"] = FAR_FROM_ANY


def it_was_measured_on_a_part_of_the_pictures(e: dict[str, Any]) -> None:
    for one in loop(e)["measured"].values():
        one["asked_count"] -= 1
        one["accepted_count"] -= 1
        one["labelled_count"] -= 1
        one["accuracy"]["value"] = one["right_count"] / one["asked_count"]
    loop(e)["refused"]["asked_count"] -= 1


def there_were_no_rows(e: dict[str, Any]) -> None:
    for role in ("first", "refused", "recovered"):
        run(e, role)["data"]["sources"] = []


# -- the counts of fleet and inspector


def a_label_was_counted_twice(e: dict[str, Any]) -> None:
    measured(e, "during")["labelled_count"] += 1


def a_device_took_fewer_labels(e: dict[str, Any]) -> None:
    measured(e, "after")["accepted_count"] -= 1


def another_release_answered_as_well(e: dict[str, Any]) -> None:
    measured(e, "after")["versions"].append(loop(e)["versions"]["first"])


def the_controller_told_of_another_release(e: dict[str, Any]) -> None:
    measured(e, "after")["version"] = loop(e)["versions"]["first"]


def the_controller_boasts(e: dict[str, Any]) -> None:
    measured(e, "after")["accuracy"]["value"] += 0.01


# -- before, during, after


def it_was_bad_before(e: dict[str, Any]) -> None:
    say_measured(e, "before", 0.84, 0.88, 0.91)


def it_may_be_as_right_as_before(e: dict[str, Any]) -> None:
    one = measured(e, "during")["accuracy"]
    one["high"] = measured(e, "before")["accuracy"]["low"]
    measured(e, "after")["accuracy"]["low"] = one["high"] + 0.001


def it_may_be_no_better_than_during(e: dict[str, Any]) -> None:
    measured(e, "after")["accuracy"]["low"] = measured(e, "during")["accuracy"]["high"]


def it_is_still_bad_after(e: dict[str, Any]) -> None:
    say_measured(e, "after", 0.84, 0.88, 0.91)


# -- what was found without labels, and told


def nothing_was_found(e: dict[str, Any]) -> None:
    loop(e)["findings"] = []


def another_release_was_found(e: dict[str, Any]) -> None:
    for one in loop(e)["findings"]:
        one["version"] = loop(e)["versions"]["recovered"]


def it_was_found_before_it_happened(e: dict[str, Any]) -> None:
    loop(e)["findings"][0]["opened_unix_ms"] = loop(e)["changed_unix_ms"] - 1


def it_was_found_while_all_was_well(e: dict[str, Any]) -> None:
    loop(e)["findings_before"].append(dict(loop(e)["findings"][0]))


def hardly_a_row_was_looked_at_before(e: dict[str, Any]) -> None:
    loop(e)["row_counts"][e["devices"][1]] = 20


def low(e: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in loop(e)["alerts"] if one["rule"] == "accuracy_low")
    return found


def no_alert_was_raised(e: dict[str, Any]) -> None:
    loop(e)["alerts"].remove(low(e))


def the_alert_is_about_the_new_release(e: dict[str, Any]) -> None:
    low(e)["subject"] = f"digits:{loop(e)['versions']['recovered']}"


def the_alert_was_raised_while_all_was_well(e: dict[str, Any]) -> None:
    low(e)["fired_unix_ms"] = loop(e)["changed_unix_ms"] - 1


def the_alert_is_still_pending(e: dict[str, Any]) -> None:
    low(e)["fired_unix_ms"] = None


# -- what started the runs


def entry(e: dict[str, Any], role: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in loop(e)["retraining"]["entries"] if one["run"] == run(e, role)["id"]
    )
    return found


def a_person_started_the_run(e: dict[str, Any]) -> None:
    entry(e, "refused")["kind"] = run(e, "refused")["trigger"]["kind"] = "hand"


def the_run_carries_another_trigger(e: dict[str, Any]) -> None:
    run(e, "refused")["trigger"]["kind"] = "schedule"


def the_evidence_was_lost(e: dict[str, Any]) -> None:
    run(e, "refused")["trigger"]["evidence"] = {}


def the_evidence_is_about_another_release(e: dict[str, Any]) -> None:
    for seen in run(e, "recovered")["trigger"]["evidence"].values():
        for one in seen:
            one["version"] = "1.0.0"


def somebody_else_says_that_it_was_a_trigger(e: dict[str, Any]) -> None:
    run(e, "refused")["trigger"]["by"] = "a person"


def the_first_run_was_a_triggers(e: dict[str, Any]) -> None:
    run(e, "first")["trigger"] = run(e, "refused")["trigger"]


def there_was_a_third_run(e: dict[str, Any]) -> None:
    loop(e)["retraining"]["entries"].append({**entry(e, "refused"), "run": "0" * 12})


# -- the gate


def the_worse_model_was_blessed(e: dict[str, Any]) -> None:
    run(e, "refused")["verdict"]["outcome"] = "bless"


def it_was_refused_without_a_reason(e: dict[str, Any]) -> None:
    run(e, "refused")["verdict"]["reasons"] = []


def it_was_refused_beside_nobody(e: dict[str, Any]) -> None:
    run(e, "refused")["verdict"]["champion"] = None


def the_refused_model_was_released(e: dict[str, Any]) -> None:
    run(e, "refused")["release"] = dict(run(e, "recovered")["release"])


def the_refused_model_was_pushed_by_hand(e: dict[str, Any]) -> None:
    manifest = loop(e)["bundles"]["refused"]["manifest"]
    loop(e)["releases"].append({**loop(e)["releases"][0], "manifest": manifest})


def a_device_was_sent_the_refused_model(e: dict[str, Any]) -> None:
    speak_of(e, loop(e)["bundles"]["refused"]["manifest"])


def the_refused_model_was_the_better_one(e: dict[str, Any]) -> None:
    loop(e)["refused"]["right_count"] = measured(e, "during")["right_count"]


def the_refused_model_was_tried_on_other_pictures(e: dict[str, Any]) -> None:
    loop(e)["refused"]["asked_count"] += 1


def the_better_model_was_not_blessed(e: dict[str, Any]) -> None:
    run(e, "recovered")["verdict"]["outcome"] = "inconclusive"


def it_was_blessed_beside_the_refused_model(e: dict[str, Any]) -> None:
    refused = loop(e)["bundles"]["refused"]["files"]["model.onnx"]
    run(e, "recovered")["verdict"]["champion"] = refused


def its_release_is_another_version(e: dict[str, Any]) -> None:
    run(e, "recovered")["release"]["version"] = "9.9.9"


def its_rollout_halted(e: dict[str, Any]) -> None:
    name = f"rollout {loop(e)['versions']['recovered']}"
    next(one for one in e["commands"] if one["name"] == name)["exit_code"] = 3


def a_device_never_served_it(e: dict[str, Any]) -> None:
    e["wire"]["messages"] = [
        one
        for one in e["wire"]["messages"]
        if not (
            one["topic"] == f"fleet/v1/device/{e['devices'][0]}/reported"
            and any(
                (model["active"] or {}).get("version") == loop(e)["versions"]["recovered"]
                for model in one["body"]["models"]
            )
        )
    ]


def devices_serve_another_bundle_by_its_name(e: dict[str, Any]) -> None:
    loop(e)["bundles"]["recovered"]["manifest"] = FAR_FROM_ANY
    for event in loop(e)["lineage"]:
        if event["job"]["name"] == "bundle":
            event["outputs"].append({"name": f"bundle/{FAR_FROM_ANY}"})


# -- lineage


def event(e: dict[str, Any], job: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in loop(e)["lineage"] if one["job"]["name"] == job)
    return found


def it_leads_to_other_rows(e: dict[str, Any]) -> None:
    for one in event(e, "train")["inputs"]:
        one["name"] = f"data/{FAR_FROM_ANY}"


def it_leads_to_no_run(e: dict[str, Any]) -> None:
    loop(e)["lineage"].remove(event(e, "train"))


def it_names_another_cause(e: dict[str, Any]) -> None:
    event(e, "train")["run"]["facets"]["modelfleet_trigger"]["kind"] = "hand"


def the_run_made_another_model(e: dict[str, Any]) -> None:
    for one in event(e, "train")["outputs"]:
        one["name"] = f"model-file/{FAR_FROM_ANY}"


def it_is_the_lineage_of_another_bundle(e: dict[str, Any]) -> None:
    for one in event(e, "bundle")["outputs"]:
        one["name"] = f"bundle/{FAR_FROM_ANY}"


FALSIFIED: dict[str, tuple[Tampering, ...]] = {
    "labels_were_never_seen": (
        a_picture_was_learnt_from_as_well,
        the_first_model_learnt_from_a_file_that_nobody_knows,
        it_was_measured_on_a_part_of_the_pictures,
        there_were_no_rows,
    ),
    "fleet_counts_right": (
        a_label_was_counted_twice,
        a_device_took_fewer_labels,
        another_release_answered_as_well,
        the_controller_told_of_another_release,
        the_controller_boasts,
    ),
    "accuracy_falls": (it_was_bad_before, it_may_be_as_right_as_before),
    "change_is_found": (
        nothing_was_found,
        another_release_was_found,
        it_was_found_before_it_happened,
        it_was_found_while_all_was_well,
        hardly_a_row_was_looked_at_before,
    ),
    "low_accuracy_is_told": (
        no_alert_was_raised,
        the_alert_is_about_the_new_release,
        the_alert_was_raised_while_all_was_well,
        the_alert_is_still_pending,
    ),
    "triggers_start_the_runs": (
        a_person_started_the_run,
        the_run_carries_another_trigger,
        the_evidence_was_lost,
        the_evidence_is_about_another_release,
        somebody_else_says_that_it_was_a_trigger,
        the_first_run_was_a_triggers,
        there_was_a_third_run,
    ),
    "gate_refuses_the_worse_model": (
        the_worse_model_was_blessed,
        it_was_refused_without_a_reason,
        it_was_refused_beside_nobody,
        the_refused_model_was_released,
        the_refused_model_was_pushed_by_hand,
        a_device_was_sent_the_refused_model,
        the_refused_model_was_the_better_one,
        the_refused_model_was_tried_on_other_pictures,
    ),
    "gate_passes_the_better_model": (
        the_better_model_was_not_blessed,
        it_was_blessed_beside_the_refused_model,
        its_release_is_another_version,
        its_rollout_halted,
        a_device_never_served_it,
        devices_serve_another_bundle_by_its_name,
    ),
    "accuracy_recovers": (it_may_be_no_better_than_during, it_is_still_bad_after),
    "lineage_leads_to_the_rows": (
        it_leads_to_other_rows,
        it_leads_to_no_run,
        it_names_another_cause,
        the_run_made_another_model,
        it_is_the_lineage_of_another_bundle,
    ),
}
