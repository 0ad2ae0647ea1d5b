"""`fleet retrain …`: train a project again when something calls for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict

from fleet.api.drift_schemas import DriftFinding
from fleet.api.lineage_schemas import MAX_WHY_CHARS, Retraining
from fleet.api.schemas import Release, Rollout
from fleet.core.retraining import AccuracySeen, DriftSeen, Seen, Start, Stopped, Wait, decide
from fleet.pipeline.retrain_state import State, read_state
from fleet.pipeline.triggers import read_watched
from fleet.pipeline.watch import Watcher
from wire.errors import ConfigError, PeerError, TransferError

from .client import Client
from .console import Controller, Json, at_time, parse_seconds, say, show, show_facts, show_json

Folder = Annotated[Path, typer.Argument(help="The project's folder: it has a pipeline.toml.")]
Why = Annotated[str, typer.Option(help="Why; it is kept with the run.")]
MIN_EVERY_S: Final = 1.0


def register(app: typer.Typer) -> None:
    """Add these commands."""
    retrain = typer.Typer(help="Train a project again, by triggers.", no_args_is_help=True)
    retrain.command("watch")(watch)
    retrain.command("run")(run)
    retrain.command("status")(status)
    retrain.command("resume")(resume)
    app.add_typer(retrain, name="retrain")


class _Interval(BaseModel):
    model_config = ConfigDict(extra="ignore")
    value: float
    high: float


class _Measured(BaseModel):
    model_config = ConfigDict(extra="allow")
    version: str
    manifest: str
    group: str
    basis: str
    labelled_count: int
    accuracy: _Interval | None


class _Performance(BaseModel):
    model_config = ConfigDict(extra="ignore")
    releases: list[_Measured]


class ControllerFleet:
    """The controller over its API; see `fleet.pipeline.watch.Fleet`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def findings(self, model: str) -> Sequence[DriftSeen]:
        """Return the drift findings of a model that last."""
        return [
            DriftSeen(found.id, found.text, found.model_dump(mode="json"))
            for found in self._client.list("/v1/drift", DriftFinding, model=model)
        ]

    def accuracies(self, model: str) -> Sequence[AccuracySeen]:
        """Return the accuracies that labels show, of releases that serve, over all devices.

        None of a controller that measures none.
        """
        try:
            report = self._client.get(f"/v1/models/{model}/performance", _Performance)
            releases = self._client.list(f"/v1/models/{model}/releases", Release)
        except PeerError as exc:
            if exc.code in ("not_found", "unknown_model"):
                return []
            raise
        serving = {release.manifest for release in releases if release.device_count}
        return [
            AccuracySeen(
                found.manifest,
                found.accuracy.value,
                found.accuracy.high,
                found.labelled_count,
                found.model_dump(mode="json"),
            )
            for found in report.releases
            if found.basis == "measured" and not found.group and found.manifest in serving
            if found.accuracy is not None
        ]

    def rollout_state(self, rollout: str) -> tuple[str, str]:
        """Return the state of a rollout, and why."""
        found = self._client.get(f"/v1/rollouts/{rollout}", Rollout)
        return found.state, found.reason

    def tell(self, model: str, *, is_stopped: bool, why: str) -> None:
        """Say whether the triggers are stopped: an alert is raised, or over."""
        body = Retraining(is_stopped=is_stopped, why=why[:MAX_WHY_CHARS])
        self._client.put(f"/v1/models/{model}/retraining", body, Retraining)


def watch(
    folder: Folder = Path(),
    every: Annotated[str, typer.Option(help="How often to look.")] = "60s",
    once: Annotated[bool, typer.Option("--once", help="Look once and end, for cron.")] = False,
    controller: Controller = None,
) -> None:
    """Look for drift, for a measured accuracy, on the calendar; train when it is time, until Ctrl-C.

    A blessed model waits for a person, unless `[rollout] auto = true`.
    """
    every_s = max(MIN_EVERY_S, parse_seconds(every, option="--every"))
    ending = threading.Event()
    signal.signal(signal.SIGTERM, _interrupt)
    said = ""
    with Client(controller) as client:
        while True:
            try:
                # Read anew at each look: a limit that was changed holds from then on.
                decision = _watcher(folder, client, controller).look()
                if not isinstance(decision, Start) and decision.why != said:
                    said = decision.why
                    say(f"{'stopped' if isinstance(decision, Stopped) else 'waits'}: {said}")
            except (TransferError, ConfigError) as exc:
                if once or (isinstance(exc, ConfigError) and exc.code != "retrain_taken"):
                    raise
                say(f"{exc}; looking again in {every_s:g} s")
            if once or ending.wait(every_s):
                return


def run(
    folder: Folder = Path(),
    why: Why = "",
    controller: Controller = None,
) -> None:
    """Train now, whatever the triggers say; the run counts for cool-down and budget."""
    signal.signal(signal.SIGTERM, _interrupt)
    with Client(controller) as client:
        decision = _watcher(folder, client, controller).look(by_hand=why)
    if isinstance(decision, Wait):
        raise PeerError(decision.why, code="retrain_taken")


def status(folder: Folder = Path(), json: Json = False) -> None:
    """Show what triggers have started, and what holds them back; asks no controller."""
    watched = read_watched(folder)
    now = _now_unix_ms()
    state = read_state(folder) or State(watched_unix_ms=now)
    decision = decide(watched.policy, _past(state), now)
    if json:
        stands = {"decision": type(decision).__name__.lower(), "why": decision.why}
        show_json(state.model_dump(mode="json") | stands)
        return
    until = decision.until_unix_ms if isinstance(decision, Wait) else None
    show_facts(
        [
            ("model", watched.model),
            ("triggers", ", ".join(sorted(watched.policy.on)) or "none"),
            ("stands", "stopped" if isinstance(decision, Stopped) else "watching"),
            ("without news", decision.why),
            *([("looks again", at_time(until))] if until is not None else []),
        ]
    )
    typer.echo()
    show(
        [
            {
                "RUN": entry.number,
                "STARTED": at_time(entry.started_unix_ms),
                "BY": entry.kind,
                "VERDICT": entry.verdict or "running",
                "PIPELINE": entry.run,
                "ROLLOUT": entry.rollout,
                "WHY": entry.why,
                "REASON": entry.reason,
            }
            for entry in reversed(state.entries)
        ],
        empty="no run yet",
    )


def resume(
    folder: Folder = Path(),
    why: Why = "",
    controller: Controller = None,
) -> None:
    """Let triggers train again after two models were refused; the alert is over."""
    with Client(controller) as client:
        _watcher(folder, client, controller).resume(why)
    typer.echo("the triggers train again")


def _watcher(folder: Path, client: Client, controller: str | None) -> Watcher:
    options = ("--controller", controller) if controller is not None else ()
    return Watcher(
        read_watched(folder), ControllerFleet(client), _now_unix_ms, say, options=options
    )


def _past(state: State) -> Seen:
    return Seen(
        runs=[entry.past() for entry in state.entries],
        watched_unix_ms=state.watched_unix_ms,
        resumed_unix_ms=state.resumed_unix_ms,
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000
