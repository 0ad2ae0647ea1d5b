"""Every route of the controller's API: who may, what one who may is answered outside of the scope."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.core.rights import Role
from tests.fleet.bundles import bundle
from tests.fleet.secured import new_key, new_request

VIEWER, OPERATOR, RELEASER, ADMIN = Role
LADDER = list(Role)
SITES = {"lab": "r-1", "hall": "r-2"}
"""The sites of the world, and the rollout that each has. The scope of scoped tokens is the lab."""


@dataclass(frozen=True)
class Route:
    """What a route shall do.

    Attributes:
        least: The first role of the ladder that may.
        ask: From a site to the request that is about it.
        outside: Status and code for one who may, about a site that is not his; None where the
            route is about no site, and then nothing of the other site may be in the answer.
        is_whole: Whether it is closed to all scoped tokens.
        done: Status when it is allowed.
    """

    least: Role
    ask: Callable[[str], dict[str, Any]]
    outside: tuple[int, str] | None = None
    is_whole: bool = False
    done: int = 200


def at(path: str, **more: Any) -> Callable[[str], dict[str, Any]]:
    """Return a maker of requests; `SITE`, `DEVICE` and `ROLLOUT` stand for those of the site."""

    def ask(site: str) -> dict[str, Any]:
        text = json.dumps({"url": path, **more})
        for word, value in (
            ("SITE", site),
            ("DEVICE", f"{site}-1"),
            ("ROLLOUT", SITES[site]),
            ("PROPOSED", PROPOSED[site]),
            ("ALERT", ALERTS[site]),
            ("HUSH", HUSHES[site]),
        ):
            text = text.replace(word, value)
        return dict(json.loads(text))

    return ask


def push(_site: str) -> dict[str, Any]:
    return {"url": "/v1/bundles", "content": bundle("2.0.0")}


def observe(_site: str) -> dict[str, Any]:
    csr = new_request(new_key(), "fleet.observer.eve")
    return {"url": "/v1/observers", "json": {"name": "eve", "csr": csr}}


NO_DEVICE, NO_ROLLOUT = (404, "unknown_device"), (404, "unknown_rollout")
BEYOND = (403, "out_of_scope")
MATCH = {"site": "SITE"}
CAPTURE = {"model": "digits", "match": MATCH}
SILENCE = {"rule": "drift", "for_s": 60, "why": "a test"}
AN_ALIAS, A_RELEASE = "/v1/models/{model}/aliases/{alias}", "/v1/releases/{model}/{version}"
CHAMPION, OLD = "/v1/models/digits/aliases/champion", "/v1/releases/digits/1.0.0"
RUN = {"pipeline": "digits", "run": "r", "data": {"sha256": "d" * 64, "row_count": 1}}
TOKEN = {"name": "new", "role": "admin", "scope": MATCH}

ROUTES = {
    ("GET", "/openapi.json"): Route(VIEWER, at("/openapi.json")),
    ("GET", "/metrics"): Route(VIEWER, at("/metrics"), is_whole=True),
    ("GET", "/v1/devices"): Route(VIEWER, at("/v1/devices")),
    ("POST", "/v1/devices"): Route(
        ADMIN, at("/v1/devices", json={"id": "new", "tags": MATCH}), BEYOND, done=201
    ),
    ("GET", "/v1/devices/{device}"): Route(VIEWER, at("/v1/devices/DEVICE"), NO_DEVICE),
    ("PATCH", "/v1/devices/{device}"): Route(
        OPERATOR, at("/v1/devices/DEVICE", json={"tags": {"site": "SITE", "a": "b"}}), NO_DEVICE
    ),
    ("DELETE", "/v1/devices/{device}"): Route(ADMIN, at("/v1/devices/DEVICE"), NO_DEVICE, done=204),
    ("POST", "/v1/devices/{device}/tokens"): Route(
        ADMIN, at("/v1/devices/DEVICE/tokens", json={}), NO_DEVICE, done=201
    ),
    ("POST", "/v1/devices/{device}/revoke"): Route(
        ADMIN, at("/v1/devices/DEVICE/revoke"), NO_DEVICE
    ),
    ("POST", "/v1/broker-audits"): Route(ADMIN, at("/v1/broker-audits"), is_whole=True),
    ("GET", "/v1/observers"): Route(ADMIN, at("/v1/observers"), is_whole=True),
    ("POST", "/v1/observers"): Route(ADMIN, observe, is_whole=True, done=201),
    ("POST", "/v1/observers/{name}/revoke"): Route(
        ADMIN,
        at("/v1/observers/eve/revoke"),
        is_whole=True,
        done=404,  # nobody watches
    ),
    ("GET", "/v1/devices/{device}/records"): Route(
        VIEWER, at("/v1/devices/DEVICE/records"), NO_DEVICE
    ),
    ("POST", "/v1/bundles"): Route(RELEASER, push, done=201),
    ("GET", "/v1/models"): Route(VIEWER, at("/v1/models")),
    ("GET", "/v1/models/{model}/releases"): Route(VIEWER, at("/v1/models/digits/releases")),
    ("GET", "/v1/models/{model}/drift"): Route(
        VIEWER,
        at("/v1/models/digits/drift"),
        done=422,  # its bundle is none
    ),
    ("GET", "/v1/models/{model}/history"): Route(VIEWER, at("/v1/models/digits/history")),
    ("GET", "/v1/aliases"): Route(VIEWER, at("/v1/aliases")),
    ("GET", f"{AN_ALIAS}/history"): Route(VIEWER, at(f"{CHAMPION}/history")),
    ("PUT", AN_ALIAS): Route(RELEASER, at(CHAMPION, json={"version": "1.2.0"}), is_whole=True),
    ("DELETE", AN_ALIAS): Route(RELEASER, at(CHAMPION), is_whole=True),
    ("POST", f"{AN_ALIAS}/rollback"): Route(
        OPERATOR, at(f"{CHAMPION}/rollback", json={}), is_whole=True
    ),
    ("PUT", "/v1/models/{model}/retraining"): Route(
        RELEASER, at("/v1/models/digits/retraining", json={"is_stopped": True}), is_whole=True
    ),
    ("GET", A_RELEASE): Route(VIEWER, at(OLD)),
    ("GET", f"{A_RELEASE}/manifest"): Route(VIEWER, at(f"{OLD}/manifest")),
    ("GET", f"{A_RELEASE}/lineage"): Route(VIEWER, at(f"{OLD}/lineage?device=DEVICE"), NO_DEVICE),
    ("GET", f"{A_RELEASE}/run"): Route(VIEWER, at(f"{OLD}/run")),
    ("PUT", f"{A_RELEASE}/run"): Route(
        RELEASER, at("/v1/releases/digits/1.2.0/run", json=RUN), done=201
    ),
    ("GET", "/v1/devices/{device}/lineage"): Route(
        VIEWER, at("/v1/devices/DEVICE/lineage"), NO_DEVICE
    ),
    ("GET", "/v1/models/{model}/performance"): Route(VIEWER, at("/v1/models/digits/performance")),
    ("POST", "/v1/devices/{device}/models/{model}/feedback"): Route(
        OPERATOR,
        at(
            "/v1/devices/DEVICE/models/digits/feedback",
            json={"labels": [{"id": "a", "label": 1}]},
        ),
        NO_DEVICE,
        done=409,  # no device serves it there
    ),
    ("GET", "/v1/drift"): Route(VIEWER, at("/v1/drift")),
    ("POST", "/v1/rollouts"): Route(
        RELEASER,
        at("/v1/rollouts", json={"model": "digits", "version": "1.2.0", "match": MATCH}),
        BEYOND,
        done=201,
    ),
    ("GET", "/v1/rollouts"): Route(VIEWER, at("/v1/rollouts")),
    ("GET", "/v1/rollouts/{rollout}"): Route(VIEWER, at("/v1/rollouts/ROLLOUT"), NO_ROLLOUT),
    ("POST", "/v1/rollouts/{rollout}/approve"): Route(
        RELEASER, at("/v1/rollouts/PROPOSED/approve"), NO_ROLLOUT
    ),
    ("POST", "/v1/rollouts/{rollout}/pause"): Route(
        OPERATOR, at("/v1/rollouts/ROLLOUT/pause"), NO_ROLLOUT
    ),
    ("POST", "/v1/rollouts/{rollout}/resume"): Route(
        OPERATOR, at("/v1/rollouts/ROLLOUT/resume"), NO_ROLLOUT
    ),
    ("POST", "/v1/rollouts/{rollout}/abort"): Route(
        OPERATOR, at("/v1/rollouts/ROLLOUT/abort"), NO_ROLLOUT
    ),
    ("POST", "/v1/rollbacks"): Route(
        OPERATOR, at("/v1/rollbacks", json={"model": "digits", "match": MATCH}), BEYOND
    ),
    ("POST", "/v1/quarantine-lifts"): Route(
        OPERATOR, at("/v1/quarantine-lifts", json={"device": "DEVICE"}), NO_DEVICE
    ),
    ("GET", "/v1/alerts"): Route(VIEWER, at("/v1/alerts")),
    ("POST", "/v1/alerts/{alert}/acknowledge"): Route(
        OPERATOR, at("/v1/alerts/ALERT/acknowledge"), (404, "unknown_alert")
    ),
    ("POST", "/v1/alert-tests"): Route(OPERATOR, at("/v1/alert-tests"), is_whole=True),
    ("GET", "/v1/silences"): Route(VIEWER, at("/v1/silences")),
    ("POST", "/v1/silences"): Route(
        OPERATOR, at("/v1/silences", json=SILENCE | {"match": MATCH}), BEYOND, done=201
    ),
    ("DELETE", "/v1/silences/{silence}"): Route(
        OPERATOR, at("/v1/silences/HUSH"), (404, "unknown_silence")
    ),
    ("POST", "/v1/capture-requests"): Route(
        RELEASER, at("/v1/capture-requests", json=CAPTURE), BEYOND, done=201
    ),
    ("GET", "/v1/capture-requests"): Route(VIEWER, at("/v1/capture-requests")),
    ("GET", "/v1/captures"): Route(VIEWER, at("/v1/captures")),
    ("POST", "/v1/capture-exports"): Route(
        RELEASER, at("/v1/capture-exports", json=CAPTURE), BEYOND
    ),
    ("POST", "/v1/capture-deletions"): Route(
        RELEASER, at("/v1/capture-deletions", json=CAPTURE), BEYOND
    ),
    ("GET", "/v1/trust/metadata"): Route(VIEWER, at("/v1/trust/metadata")),
    ("GET", "/v1/trust/metadata/{file}"): Route(VIEWER, at("/v1/trust/metadata/timestamp.json")),
    ("POST", "/v1/trust/metadata"): Route(RELEASER, at("/v1/trust/metadata", json={})),
    ("POST", "/v1/trust/restoration"): Route(
        ADMIN, at("/v1/trust/restoration", json={}), is_whole=True
    ),
    ("POST", "/v1/trust/keys"): Route(
        ADMIN, at("/v1/trust/keys", json={"role": "snapshot"}), is_whole=True, done=201
    ),
    ("GET", "/v1/status"): Route(VIEWER, at("/v1/status")),
    ("GET", "/v1/watch"): Route(VIEWER, at("/v1/watch?since=0")),
    ("GET", "/v1/audit"): Route(ADMIN, at("/v1/audit"), is_whole=True),
    ("GET", "/v1/tokens"): Route(ADMIN, at("/v1/tokens")),
    ("POST", "/v1/tokens"): Route(ADMIN, at("/v1/tokens", json=TOKEN), BEYOND, done=201),
    ("DELETE", "/v1/tokens/{name}"): Route(ADMIN, at("/v1/tokens/of-SITE"), (404, "unknown_token")),
}
OPEN = {("GET", "/v1/health")}
PROPOSED = {"lab": "r-3", "hall": "r-4"}
ALERTS = HUSHES = {"lab": "1", "hall": "2"}
