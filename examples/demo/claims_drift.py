"""Claims on drift: what the controller found, and what it did not. Pure; see `claims_wire`."""

from __future__ import annotations

from typing import Any

from evidence import Evidence
from verdict import require

MIN_ROWS = 500
"""Of each device and good version before the camera gets dirty: with fewer, finding nothing is easy."""


def drift_is_found(evidence: Evidence) -> str:
    """One finding names the camera that got dirty and its dirty pixels, and nothing else came up."""
    drift, device = evidence["drift"], evidence["drift"]["device"]
    known = {finding["id"] for finding in drift["before"]}
    new = [one for one in _of_good_releases(evidence, "after") if one["id"] not in known]
    require(new, f"nothing was found although {device} was dirty")
    for one in new:
        is_its_own = (one["version"], one["level"], one["who"]) == (
            evidence["versions"]["better"],
            "device",
            device,
        )
        require(is_its_own, f"found: digits {one['version']}, {one['text']}")
    require(len(new) == 1, f"one cause became {len(new)} findings")
    (one,) = new
    after_s = (one["opened_unix_ms"] - drift["dirty_unix_ms"]) / 1000
    require(after_s > 0, f"it was found {-after_s:.1f} s before {device} was dirty")
    features, pixels = set(one["features"]), set(drift["pixels"])
    strange = features - pixels - set(drift["outputs"])
    require(not strange, f"{sorted(strange)} are neither dirty pixels nor outputs")
    found = features & pixels
    require(found, f"none of the dirty pixels is among {sorted(features)}")
    return (
        f"{after_s:.1f} s after {device} got dirty the controller named it alone, and in the end"
        f" {len(found)} of its {len(pixels)} dirty pixels, and {len(features - pixels)} of"
        f" {len(drift['outputs'])} outputs"
    )


def no_false_alarm(evidence: Evidence) -> str:
    """While all cameras were clean, nothing was found about a release that was served for good."""
    drift, total = evidence["drift"], 0
    for version in (evidence["versions"]["good"], evidence["versions"]["better"]):
        for device in evidence["devices"]:
            count = drift["row_counts"][version][device]
            require(count >= MIN_ROWS, f"only {count} rows of {version} on {device} were looked at")
            total += count
    for one in _of_good_releases(evidence, "before"):
        require(condition=False, contradiction=f"found: digits {one['version']}, {one['text']}")
    return f"of {total} rows before that, on all devices, none raised a finding"


def _of_good_releases(evidence: Evidence, when: str) -> list[Any]:
    good = evidence["versions"]["good"], evidence["versions"]["better"]
    return [finding for finding in evidence["drift"][when] if finding["version"] in good]
