"""The screen of `fleet watch`: the fleet at this moment, and what happened last, redrawn in place."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from fleet.api.alert_schemas import Alert
from fleet.api.drift_schemas import DriftFinding
from fleet.api.schemas import Model, Release, Rollout, Status, WatchEvent
from wire.errors import ModelfleetError

from .client import Client
from .console import ago, printable
from .events import stream
from .follow import LIVE

LOOK_EVERY_S: Final = 2.0
"""Between two looks at the whole; events are there at once."""
MAX_EVENTS: Final = 500
MAX_SECTION_ROWS: Final = 6
"""Of releases, rollouts, alerts and drift each; what is more is counted."""
BAR_COLUMNS: Final = 24
_STYLES: Final = {"alarm": "yellow", "alert": "red", "drift": "magenta", "update": "cyan"}


@dataclass(frozen=True, slots=True)
class Served:
    """How many devices serve a release."""

    model: str
    version: str
    device_count: int


@dataclass(frozen=True, slots=True)
class View:
    """All that the screen shows but the events.

    Attributes:
        url: Of the controller.
        status: Its own state; None before the first answer.
        served: Releases that devices serve.
        rollouts: Those that have not ended, newest first.
        alerts: Open ones, newest first.
        findings: Open findings of drift, newest first.
        fault: Why what is shown is old; empty when it is not.
    """

    url: str
    status: Status | None = None
    served: tuple[Served, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    alerts: tuple[Alert, ...] = ()
    findings: tuple[DriftFinding, ...] = ()
    fault: str = ""


def look(client: Client) -> View:
    """Return the fleet at this moment.

    Raises:
        ModelfleetError: The controller does not answer, or refuses.
    """
    served = [
        Served(release.model, release.version, release.device_count)
        for model in client.list("/v1/models", Model)
        for release in client.list(f"/v1/models/{model.name}/releases", Release)
        if release.device_count
    ]
    rollouts = client.list("/v1/rollouts", Rollout)
    return View(
        url=client.url,
        status=client.status(),
        served=tuple(served),
        rollouts=tuple(rollout for rollout in rollouts if rollout.state in LIVE),
        alerts=tuple(client.list("/v1/alerts", Alert)),
        findings=tuple(client.list("/v1/drift", DriftFinding)),
    )


def draw(view: View, events: Sequence[WatchEvent], height: int) -> RenderableType:
    """Return the screen, at most `height` lines; the newest events fill what the rest leaves."""
    parts = [_head(view), *_served(view), *_rollouts(view), *_alerts(view), *_findings(view)]
    used = sum(line_count for _, line_count in parts) + 1
    newest = list(events)[-max(1, height - used) :]
    lines = [_event(event) for event in newest] or [Text("nothing yet", style="dim")]
    return Group(*(part for part, _ in parts), Rule("events", align="left", style="dim"), *lines)


def watch_screen(client: Client, events: Client) -> NoReturn:
    """Redraw until Ctrl-C. `events` is a second session, for the stream of events.

    Raises:
        ModelfleetError: The first look failed, or events are refused; other faults are shown and
            tried again.
    """
    view = look(client)
    seen: deque[WatchEvent] = deque(maxlen=MAX_EVENTS)
    faults: deque[str] = deque(maxlen=1)
    ends: list[ModelfleetError] = []

    def take() -> None:
        try:
            seen.extend(stream(events, told=faults.append, recovered=faults.clear))
        except ModelfleetError as exc:
            ends.append(exc)

    threading.Thread(target=take, name="events", daemon=True).start()
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        next_look_s = time.monotonic() + LOOK_EVERY_S
        while not ends:
            fault = list(faults)  # which the other thread may clear
            shown = _with_fault(view, fault[0]) if fault else view
            live.update(draw(shown, list(seen), console.size.height), refresh=True)
            time.sleep(0.25)
            if time.monotonic() >= next_look_s:
                view = _next(client, view)
                next_look_s = time.monotonic() + LOOK_EVERY_S
    raise ends[0]


def _next(client: Client, last: View) -> View:
    try:
        return look(client)
    except ModelfleetError as exc:
        return _with_fault(last, str(exc))


def _with_fault(view: View, fault: str) -> View:
    return View(
        view.url, view.status, view.served, view.rollouts, view.alerts, view.findings, fault
    )


_Part = tuple[RenderableType, int]
"""What is drawn, and how many lines it takes."""


def _head(view: View) -> _Part:
    line = _text("modelfleet", "bold")
    line.append(f"  {printable(view.url)}", style="dim")
    if view.status is not None:
        offline = view.status.device_count - view.status.online_count
        line.append(f"   {view.status.online_count} online", style="green")
        line.append(f", {offline} not", style="yellow" if offline else "dim")
        for what, state, good in (
            ("broker", view.status.broker, "connected"),
            ("store", view.status.store, "ok"),
        ):
            if state != good:
                line.append(f"   {what} {state}", style="bold red")
    line.append("   Ctrl-C ends it", style="dim")
    if not view.fault:
        return line, 1
    return Group(line, _text(f"trying again: {printable(view.fault)}", "bold red")), 2


def _served(view: View) -> list[_Part]:
    table = _grid()
    for served in view.served[:MAX_SECTION_ROWS]:
        table.add_row(
            _text(f"{served.model}:{served.version}"), _text(f"on {served.device_count}", "dim")
        )
    return _section("served", table, len(view.served))


def _rollouts(view: View) -> list[_Part]:
    table = _grid()
    for rollout in view.rollouts[:MAX_SECTION_ROWS]:
        size = rollout.phases[-1].size
        settled = max(phase.settled_count for phase in rollout.phases)
        opened = [n for n, phase in enumerate(rollout.phases, start=1) if phase.state != "waiting"]
        where = f"phase {opened[-1] if opened else 0} of {len(rollout.phases)}"
        table.add_row(
            _text(f"{rollout.model}:{rollout.version}"),
            ProgressBar(total=max(1, size), completed=settled, width=BAR_COLUMNS),
            _text(f"{settled} of {size}, {where}, {rollout.state}"),
            _text(printable(rollout.reason), "dim"),
        )
    return _section("rollouts", table, len(view.rollouts))


def _alerts(view: View) -> list[_Part]:
    table = _grid()
    for alert in view.alerts[:MAX_SECTION_ROWS]:
        known = " (known)" if alert.acknowledged_by else " (silenced)" if alert.is_silenced else ""
        table.add_row(
            _text(f"{alert.id}", "dim"),
            _text(alert.severity, "dim" if known else "red"),
            _text(printable(alert.text) + known),
            _text(ago(alert.began_unix_ms), "dim"),
        )
    return _section("alerts", table, len(view.alerts))


def _findings(view: View) -> list[_Part]:
    table = _grid()
    for found in view.findings[:MAX_SECTION_ROWS]:
        table.add_row(_text(found.model), _text(printable(found.text), "magenta"))
    return _section("drift", table, len(view.findings))


def _section(title: str, table: Table, count: int) -> list[_Part]:
    """Return a title and its rows, one line each; nothing where there are none."""
    if not count:
        return []
    more = f" ({count}, the first {MAX_SECTION_ROWS})" if count > MAX_SECTION_ROWS else ""
    return [
        (Rule(f"{title}{more}", align="left", style="dim"), 1),
        (table, min(count, MAX_SECTION_ROWS)),
    ]


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(4):
        table.add_column(no_wrap=True, overflow="ellipsis")
    return table


def _event(event: WatchEvent) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(event.at_unix_ms / 1000))
    line = _text(f"{at}  ", "dim")
    line.append(f"{event.kind:<9}", style=_STYLES.get(event.kind, ""))
    line.append(f" {printable(event.subject)}: {printable(event.text)}")
    return line


def _text(text: str, style: str = "") -> Text:
    # Text, not markup: names and words may come from devices.
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
