"""Claims on the loop: what the fleet lost when the world changed, and what brought it back. Pure.

See `claims_wire`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evidence import MODEL, Evidence, exit_code, mentions, said
from verdict import require

MIN_LABELLED = 300
"""Labels of one measurement: with so many, a share of 0.95 is known to 0.03."""
MIN_GOOD = 0.9
"""Accuracy before and after, at least; chance is 0.1."""
WHEN = {"before": "first", "during": "first", "after": "recovered"}
"""Which release answers when."""


def labels_were_never_seen(evidence: Evidence) -> str:
    """What the accuracy is measured on is in no file of rows that a run was given."""
    rows, runs = evidence["loop"]["rows"], evidence["loop"]["runs"]
    unseen = set(rows["unseen"])
    files = {one["sha256"]: set(one["pictures"]) for name, one in rows.items() if name != "unseen"}
    learnt: set[int] = set()
    for role, run in runs.items():
        for source in run["data"]["sources"]:
            require(source["sha256"] in files, f"{role}: nobody knows what {source['path']} held")
            learnt |= files[source["sha256"]]
    require(learnt, "the runs were given no rows")
    both = unseen & learnt
    require(not both, f"{len(both)} pictures were learnt from and measured on: {sorted(both)[:3]}")
    for when in WHEN:
        count = evidence["loop"]["measured"][when]["asked_count"]
        require(
            count == len(unseen) >= MIN_LABELLED, f"{when}: measured on {count} of {len(unseen)}"
        )
    return (
        f"three times on the same {len(unseen)} pictures, none of which is among the {len(learnt)}"
        f" that {len(runs)} runs were given"
    )


def fleet_counts_right(evidence: Evidence) -> str:
    """What the controller measured is what the inspector counted itself, label by label."""
    loop = evidence["loop"]
    for when, role in WHEN.items():
        one, version = loop["measured"][when], loop["versions"][role]
        require(one["versions"] == [version], f"{when}: {one['versions']} answered")
        require(one["version"] == version, f"{when}: the controller tells of {one['version']}")
        asked, right = one["asked_count"], one["right_count"]
        for what in ("accepted_count", "labelled_count"):
            require(one[what] == asked, f"{when}: {what} is {one[what]} of {asked} labels")
        told = one["accuracy"]["value"] * asked
        require(abs(told - right) < 0.5, f"{when}: {right} were right, the controller has {told}")
    total = sum(one["labelled_count"] for one in loop["measured"].values())
    return f"of {total} labels each was counted once, and as many right as were"


def accuracy_falls(evidence: Evidence) -> str:
    """Once the mounts are loose the answers are certainly less right than before."""
    before, during = (_measured(evidence, when) for when in ("before", "during"))
    require(before["value"] >= MIN_GOOD, f"it was {before['value']:.1%} before")
    require(
        during["high"] < before["low"],
        f"{_said(during)} during is not certainly less than {_said(before)} before",
    )
    return f"{_said(before)} before, {_said(during)} once the mounts were loose"


def change_is_found(evidence: Evidence) -> str:
    """Without a label the controller finds that the pictures have changed, and only then."""
    loop = evidence["loop"]
    first, changed = loop["versions"]["first"], loop["changed_unix_ms"]
    for device, count in loop["row_counts"].items():
        require(count >= MIN_LABELLED, f"only {count} rows of {device} were looked at before")
    early = [one for one in loop["findings_before"] if one["version"] == first]
    require(not early, "it was found while all mounts were firm")
    found = [one for one in loop["findings"] if one["version"] == first]
    require(found, f"nothing was found about {MODEL} {first}")
    after_s = min(one["opened_unix_ms"] - changed for one in found) / 1000
    require(after_s > 0, f"it was found {-after_s:.1f} s before the mounts were loose")
    return f"drift was found {after_s:.1f} s after the mounts came loose: {found[-1]['text']}"


def low_accuracy_is_told(evidence: Evidence) -> str:
    """The alert for a release that is right too seldom is raised, for the first release alone."""
    loop = evidence["loop"]
    first = f"{MODEL}:{loop['versions']['first']}"
    alerts = [one for one in loop["alerts"] if one["rule"] == "accuracy_low"]
    require(alerts, "no alert accuracy_low was raised")
    for one in alerts:
        require(one["subject"] == first, f"the alert is about {one['subject']}")
        require(
            one["fired_unix_ms"] is not None and one["fired_unix_ms"] > loop["changed_unix_ms"],
            "it did not fire after the mounts came loose",
        )
    return f"accuracy_low: {alerts[0]['text']}"


def triggers_start_the_runs(evidence: Evidence) -> str:
    """Nobody started the second and third run: each carries what a trigger saw of the first release."""
    loop = evidence["loop"]
    require(loop["runs"]["first"]["trigger"] is None, "the first run was not a person's")
    entries = {entry["run"]: entry for entry in loop["retraining"]["entries"]}
    require(len(entries) == 2, f"triggers started {len(entries)} runs")
    kinds = []
    for role in ("refused", "recovered"):
        run = loop["runs"][role]
        trigger, entry = run["trigger"], entries[run["id"]]
        require(trigger["by"] == "fleet retrain", f"{role}: it was started by {trigger['by']}")
        require(trigger["kind"] == entry["kind"] != "hand", f"{role}: started by {entry['kind']}")
        seen = list(_seen(trigger["evidence"]))
        require(seen, f"{role}: it carries no evidence")
        first = loop["versions"]["first"]
        wrong = [what for what, version in seen if version != first]
        require(not wrong, f"{role}: {wrong} are not about the release that served")
        kinds.append(f"{trigger['kind']} ({', '.join(what for what, _ in seen)})")
    return f"the runs were started by {' and '.join(kinds)}, and carry that"


def gate_refuses_the_worse_model(evidence: Evidence) -> str:
    """The model of slipped labels is refused, goes nowhere, and is in truth the worse one."""
    loop = evidence["loop"]
    run, manifest = loop["runs"]["refused"], loop["bundles"]["refused"]["manifest"]
    _judged_beside_the_first(loop, "refused", "refuse")
    require(run["release"] is None, "the refused model was released")
    pushed = [one["version"] for one in loop["releases"] if one["manifest"] == manifest]
    require(not pushed, f"the refused model is release {pushed}")
    for one in said(evidence):
        is_named = mentions(one.body, manifest)
        require(not is_named, f"{one.device}/{one.channel} speaks of the refused model")
    asked, right = loop["refused"]["asked_count"], loop["refused"]["right_count"]
    served = loop["measured"]["during"]
    require(asked == served["asked_count"], "it was not tried on what the devices were asked")
    require(
        right < served["right_count"],
        f"it reads {right} right, the one that it was to replace {served['right_count']}",
    )
    return (
        f"refused, no device heard of it, and rightly: of {asked} unseen pictures it reads {right}"
        f" right, the one that served {served['right_count']}. {run['verdict']['reasons'][0]}"
    )


def gate_passes_the_better_model(evidence: Evidence) -> str:
    """With the labels put right, the next model is blessed, and goes to every device."""
    loop = evidence["loop"]
    run, version = loop["runs"]["recovered"], loop["versions"]["recovered"]
    _judged_beside_the_first(loop, "recovered", "bless")
    require(run["release"]["version"] == version, f"it is release {run['release']['version']}")
    code = exit_code(evidence, f"rollout {version}")
    require(code == 0, f"its rollout ended with {code}")
    manifest = loop["bundles"]["recovered"]["manifest"]
    served = set()
    for one in said(evidence, "reported"):
        for model in one.body["models"]:
            if (model["active"] or {}).get("version") == version:
                found = model["active"]["manifest"]
                require(found == manifest, f"{one.device} serves {found[:12]} as {version}")
                served.add(one.device)
    missing = set(evidence["devices"]) - served
    require(not missing, f"{sorted(missing)} never served {version}")
    return f"{version} was blessed and served by every device. {run['verdict']['reasons'][0]}"


def accuracy_recovers(evidence: Evidence) -> str:
    """The new release is certainly more right than the old one was, in the same world."""
    during, after = (_measured(evidence, when) for when in ("during", "after"))
    require(after["value"] >= MIN_GOOD, f"it is {after['value']:.1%} after")
    require(
        after["low"] > during["high"],
        f"{_said(after)} after is not certainly more than {_said(during)} during",
    )
    return f"{_said(during)} during, {_said(after)} after"


def lineage_leads_to_the_rows(evidence: Evidence) -> str:
    """`fleet lineage` goes from the release to its run, what started that, and the rows by their digest."""
    loop = evidence["loop"]
    run = loop["runs"]["recovered"]
    events = {event["job"]["name"]: event for event in loop["lineage"]}
    train = events["train"]
    rows = [one["name"] for one in train["inputs"]]
    require(f"data/{run['data']['sha256']}" in rows, f"it leads to {rows}")
    facets = train["run"]["facets"]
    cause = facets["modelfleet_trigger"]["kind"]
    require(cause == run["trigger"]["kind"], f"it says that {cause} started the run")
    model = f"model-file/{run['bundle']['model']}"
    require(model in [one["name"] for one in train["outputs"]], "the run made another model file")
    made = [one["name"] for one in events["bundle"]["outputs"]]
    bundle = f"bundle/{loop['bundles']['recovered']['manifest']}"
    require(bundle in made, f"the release is {made}")
    return (
        f"from {MODEL}:{loop['versions']['recovered']} to run {run['id']}, started by {cause}, and"
        f" {run['data']['row_count']} rows, {run['data']['sha256'][:12]}"
    )


def _judged_beside_the_first(loop: Mapping[str, Any], role: str, outcome: str) -> None:
    verdict = loop["runs"][role]["verdict"]
    require(verdict["outcome"] == outcome, f"the verdict was {verdict['outcome']}")
    require(verdict["reasons"], "the verdict has no reason")
    champion = loop["bundles"]["first"]["files"]["model.onnx"]
    require(verdict["champion"] == champion, "it was not compared with the model that serves")


def _seen(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a trigger saw, in a few words, with the version that it is about."""
    for finding in evidence.get("findings", ()):
        yield f"finding {finding['id']}", finding["version"]
    for found in evidence.get("accuracies", ()):
        yield f"{found['labelled_count']} labels", found["version"]


def _measured(evidence: Evidence, when: str) -> Mapping[str, float]:
    accuracy: Mapping[str, float] = evidence["loop"]["measured"][when]["accuracy"]
    return accuracy


def _said(accuracy: Mapping[str, float]) -> str:
    return f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})"
