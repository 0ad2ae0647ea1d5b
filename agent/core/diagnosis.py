"""What is found about a device, judged: one finding per subject, with what to do about it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wire.lifecycle import SUCCESSES

from .backoff import connect_delay_s
from .states import DeviceState, Fetching, ModelRecord, subject, update_state
from .trust import TrustView, Waits, authorise

PROTECTIONS: Final = {
    "rlimits": "this kernel refused setrlimit",
    "no_new_privs": "needs Linux 3.5",
    "mdwe": "needs Linux 6.3",
    "landlock": "needs Linux 5.13 and `landlock` in /sys/kernel/security/lsm (boot with lsm=landlock,…)",
    "seccomp": "needs CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
    "memory_limit": "needs /proc",
}
"""What a runtime can be confined by (`agent/runtime/confine.py`), and what each needs."""

CLOCK_TOLERANCE_S: Final = 3600.0
DISK_LOW_BYTES: Final = 64 * 1024 * 1024
"""Updates need 16 MB beside their own size; the outbox up to 8 MB."""


class Verdict(StrEnum):
    """How bad it is: `warning` works but deserves a look, `fault` does not work."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis; `remedy` says what to do, and is empty where all is well."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


def judge_protections(active: Collection[str]) -> Finding:
    """Return what confines the runtime; `active` is what it reported when it last started."""
    if not active:
        return Finding(
            "protections",
            Verdict.WARNING,
            "unknown: no runtime has started with this state yet",
            "start the agent and give it a moment",
        )
    text = " ".join(name for name in PROTECTIONS if name in active)
    missing = [name for name in PROTECTIONS if name not in active]
    if not missing:
        return Finding("protections", Verdict.OK, text)
    why = "; ".join(f"{name} {PROTECTIONS[name]}" for name in missing)
    return Finding("protections", Verdict.WARNING, f"{text}; without {', '.join(missing)}", why)


def judge_models(state: DeviceState, answering: dict[str, str]) -> tuple[Finding, ...]:
    """Return what is served, and how the last update of each model ended.

    Args:
        state: On disk.
        answering: Version by model, as the runtime answers it now; empty when it does not.
    """
    if not state.models:
        return (Finding("models", Verdict.OK, "none yet: nothing was assigned to this device"),)
    return tuple(_judge_model(state, record, answering) for record in state.models)


def _judge_model(state: DeviceState, record: ModelRecord, answering: dict[str, str]) -> Finding:
    name = f"model {record.name}"
    serves = f"serves {record.active.version}" if record.active else "serves nothing"
    if record.active is not None and not record.is_confirmed:
        serves += " on trial"
    if record.fallback is not None:
        serves += f", fallback {record.fallback.version}"
    if subject(state.update) == record.name:
        return Finding(name, Verdict.OK, f"{serves}; {update_state(state.update)}")
    said = answering.get(record.name)
    if answering and record.active is not None and said != record.active.version:
        return Finding(
            name,
            Verdict.FAULT,
            f"{serves} by its state, but the runtime answers {said or 'nothing'}",
            "restart the agent; if that does not help, its log says why",
        )
    if record.outcome is not None and record.outcome not in SUCCESSES and record.target:
        detail = f": {record.detail}" if record.detail else ""
        text = f"{serves}; {record.target.version} {record.outcome} ({record.code}){detail}"
        remedy = "`fleet device show` and docs/runbook.md say what this code means"
        verdict = Verdict.WARNING if record.active is not None else Verdict.FAULT
        return Finding(name, verdict, text, remedy)
    return Finding(name, Verdict.OK, serves)


def judge_trust(state: DeviceState, view: TrustView | None, now_unix_ms: int) -> Finding:
    """Return whether new releases could be installed, by what is signed.

    Args:
        state: On disk.
        view: What is on disk; None where it is not whole.
        now_unix_ms: By this machine's clock.
    """
    if view is None:
        return Finding(
            "trust",
            Verdict.WARNING,
            "no signed metadata has arrived yet",
            "it comes over the broker once the controller is online; until then nothing is installed",
        )
    text = describe_trust(view, now_unix_ms)
    if (role := view.expired(now_unix_ms)) is not None:
        return Finding(
            "trust",
            Verdict.FAULT,
            f"{text}: the {role} metadata; nothing new is installed",
            "is the controller online, and this clock right (`timedatectl`)? What serves goes on",
        )
    if (words := waiting_install(state, view, now_unix_ms)) is not None:
        remedy = "is the controller online? It publishes what is signed"
        return Finding("trust", Verdict.WARNING, f"{text}; {words}", remedy)
    return Finding("trust", Verdict.OK, text)


def waiting_install(state: DeviceState, view: TrustView | None, now_unix_ms: int) -> str | None:
    """Return which install waits for signed metadata, and why; None if none does."""
    if not isinstance(state.update, Fetching):
        return None
    assignment = state.update.assignment
    verdict = authorise(
        view,
        model=assignment.name,
        version=assignment.ref.version,
        manifest=assignment.ref.manifest,
        now_unix_ms=now_unix_ms,
    )
    if not isinstance(verdict, Waits):
        return None
    return f"{assignment.name}:{assignment.ref.version} waits: {verdict.fault.detail}"


def describe_trust(view: TrustView, now_unix_ms: int) -> str:
    """Return versions and lasting of what is signed, for a person."""
    left_ms = min(facts.expires_unix_ms for facts in view.roles.values()) - now_unix_ms
    hours = left_ms // 3_600_000
    lasts = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
    until = f"good for {lasts}" if left_ms > 0 else "expired"
    return f"root {view.roles['root'].version}, snapshot {view.snapshot}, {until}"


def judge_quarantine(state: DeviceState) -> Finding | None:
    """Return what this device refuses to try again, or None if there is nothing."""
    if not state.quarantined:
        return None
    listed = ", ".join(f"{q.manifest[:12]} ({q.code})" for q in state.quarantined[-3:])
    more = f" and {len(state.quarantined) - 3} more" if len(state.quarantined) > 3 else ""
    return Finding("quarantine", Verdict.OK, f"refuses {listed}{more}")


def judge_clock(now_unix_s: float, newest_write_unix_s: float) -> Finding:
    """Return whether the clock can be right: it is not before what was written by it."""
    behind_s = newest_write_unix_s - now_unix_s
    if behind_s > CLOCK_TOLERANCE_S:
        return Finding(
            "clock",
            Verdict.WARNING,
            f"it has gone back by {behind_s / 3600:.0f} h since this agent last wrote",
            "telemetry carries wrong times: set it (`timedatectl`), or wait for time synchronisation",
        )
    return Finding("clock", Verdict.OK, "not before the agent's last write")


def judge_disk(free_bytes: int, path: str) -> Finding:
    """Return whether there is room for state and updates."""
    text = f"{free_bytes // 1024**2} MB free for {path}"
    if free_bytes < DISK_LOW_BYTES:
        remedy = "free some space: updates will end as `failed` with `disk_full`"
        return Finding("disk", Verdict.WARNING, text, remedy)
    return Finding("disk", Verdict.OK, text)


def judge_restarts(count: int, in_a_row: int) -> Finding:
    """Return whether the agent stays up.

    Args:
        count: Starts that followed no orderly stop, ever.
        in_a_row: Those since an orderly stop, or since a start that stayed up.
    """
    text = f"{count} without being stopped before"
    if (wait_s := connect_delay_s(in_a_row)) > 0:
        return Finding(
            "starts",
            Verdict.WARNING,
            f"{text}, {in_a_row} in a row; it serves {wait_s:g} s before it connects to the broker",
            "`journalctl -u fleet-agent` says how each one ended",
        )
    return Finding("starts", Verdict.OK, text)


def judge_records(waiting: int, *, is_controller_online: bool | None) -> Finding:
    """Return how many records wait, and whether they can leave."""
    text = f"{waiting} waiting for the controller"
    if waiting > 100 and is_controller_online:
        return Finding(
            "records",
            Verdict.WARNING,
            f"{text}, which is online",
            "is this device in the fleet? `fleet device show` on the controller's side says so",
        )
    return Finding("records", Verdict.OK, text)
