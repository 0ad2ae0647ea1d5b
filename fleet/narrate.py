"""What a step of a rollout changed, in lines for a person."""

from __future__ import annotations

from fleet.core.states import BAD, Rollout
from fleet.store.journal import EventRow


def narrate(old: Rollout, new: Rollout) -> list[EventRow]:
    """Return one event for each phase, failed device and state that changed."""
    lines: list[str] = []
    total = len(new.phases)
    if old.shadow is not None and new.shadow is not None and old.shadow.state != new.shadow.state:
        count = len(new.shadow.devices)
        words = f"opened, devices: {count}" if new.shadow.state == "open" else new.shadow.state
        lines.append(f"shadow {words}")
    for number, (before, after) in enumerate(zip(old.phases, new.phases, strict=True), start=1):
        if before.state == after.state:
            continue
        if before.state == "waiting":
            lines.append(f"phase {number} of {total} opened ({after.share})")
        if after.state in ("passed", "stopped"):
            lines.append(f"phase {number} of {total} {after.state}")
    for was, member in zip(old.members, new.members, strict=True):
        if was.state != member.state and member.state in BAD:
            state = member.state.replace("_", " ")
            lines.append(f"{member.device} {state}: {member.code} {member.detail}".rstrip())
    if old.state != new.state:
        lines.append(f"{new.state}: {new.reason}" if new.reason else new.state)
    release = f"{new.model}:{new.release.version}"
    detail: dict[str, object] = {"release": release, "state": new.state}
    return [EventRow("rollout", new.id, line, detail) for line in lines]
