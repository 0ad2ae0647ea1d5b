"""What a runtime may say, and when: it may have been taken over by a hostile model.

The bounds of every single field are those of `agent.control`; here are the turn and the number.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from agent import control, measured
from wire.lifecycle import Code

REPORTS_PER_S: Final = 10
"""An honest runtime says about three things a second."""
MAX_REPORTS_AT_ONCE: Final = 512
"""Above the 280 small datagrams that a socket's buffer holds: a supervisor that was stopped for
minutes finds no more than these, and blames nobody for them."""
MAX_HAND_OVERS: Final = 4096
"""As many as a runtime may have descriptors."""

REFUSALS: Final = frozenset(
    {
        Code.MANIFEST_INVALID,
        Code.MODEL_REFUSED,
        Code.LOAD_FAILED,
        Code.SELF_TEST_FAILED,
        Code.STORAGE_ERROR,
    }
)
"""What a runtime may say of a model that it does not serve; the last is no fault of the model's."""


class Conduct:
    """Follows one runtime's side of the protocol; time is monotonic seconds."""

    def __init__(self) -> None:
        self._allowance = float(MAX_REPORTS_AT_ONCE)
        self._counted_at_s: float | None = None
        self._hand_over_count = 0
        self._said: set[type[control.Report]] = set()
        self._told: set[type[control.Command]] = set()
        self._tallies: dict[str, control.Tally] = {}
        self._due = {
            control.Windows: 0,
            control.Columns: 0,
            measured.Labelled: 0,
            control.Golden: 0,
            measured.Compared: 0,
        }
        self._count_counts: Counter[str] = Counter()
        self._has_capture_rules = False

    def told(self, command: control.Command) -> None:
        """Take note of a command that was sent."""
        self._told.add(type(command))
        match command:
            case control.Start(capture=rules):
                self._has_capture_rules = rules is not None
            case control.CloseWindow():
                self._due[control.Windows] += 1
            case control.CloseColumns():
                self._allow_columns()
            case control.Drain():
                self._due[control.Windows] += 1
                self._allow_columns()
            case control.CheckGolden():
                self._due[control.Golden] += 1
            case control.CloseShadow():
                self._due[measured.Compared] += 1
            case _:
                pass

    def fault_of(self, report: control.Report, now_s: float, *, is_with_socket: bool) -> str | None:
        """Return what is wrong with a report, as the end of a sentence; None if nothing is."""
        if is_with_socket != isinstance(report, control.HandOver):
            return (
                f"its {_name(report)} came {'with a' if is_with_socket else 'without its'} socket"
            )
        if not self._is_within_rate(report, now_s):
            return "it floods its control channel"
        is_first = type(report) not in self._said
        if not self._is_in_turn(report, is_first=is_first):
            return f"its {_name(report)} was out of turn"
        if isinstance(report, control.Beat) and not self._adds_up(report):
            return "its counts do not add up"
        if isinstance(report, control.Columns) and not self._is_within_size(report):
            return "it counts more columns than there are"
        self._said.add(type(report))
        return None

    def _allow_columns(self) -> None:
        self._due[control.Columns] = control.MAX_PARTS
        self._due[measured.Labelled] = control.MAX_REPORTED_MODELS
        self._count_counts.clear()

    def _is_within_size(self, part: control.Columns) -> bool:
        self._count_counts[part.model] += sum(map(len, part.columns))
        return self._count_counts[part.model] <= control.MAX_COUNTS

    def _adds_up(self, beat: control.Beat) -> bool:
        """Whether no count has fallen, and none is more than that of all requests."""
        before, self._tallies = self._tallies, dict(beat.models)
        blank = control.Tally()
        return before.keys() <= beat.models.keys() and all(
            _is_later(before.get(name, blank), tally) for name, tally in beat.models.items()
        )

    def _is_within_rate(self, report: control.Report, now_s: float) -> bool:
        if isinstance(report, control.HandOver):
            self._hand_over_count += 1
            return self._hand_over_count <= MAX_HAND_OVERS
        if isinstance(report, control.Columns | measured.Labelled):
            return True  # so many are asked for at once, and no more
        since_s = now_s - (self._counted_at_s if self._counted_at_s is not None else now_s)
        self._counted_at_s = now_s
        refilled = self._allowance + since_s * REPORTS_PER_S
        self._allowance = min(float(MAX_REPORTS_AT_ONCE), refilled) - 1
        return self._allowance >= 0

    def _is_in_turn(self, report: control.Report, *, is_first: bool) -> bool:
        is_ready = control.Ready in self._said
        match report:
            case control.Confined():
                return not self._said
            case control.Ready():
                return control.Confined in self._said and is_first
            case control.Failed(code=code):
                return control.Confined in self._said and not is_ready and code in REFUSALS
            case control.Accepting():
                return control.Serve in self._told and is_first
            case control.Stopped():
                return control.StopAccepting in self._told
            case control.HandOver() | control.Drained():
                return control.Drain in self._told
            case measured.Compared() if not _is_comparison(report):
                return False
            case (
                control.Windows()
                | control.Columns()
                | measured.Labelled()
                | control.Golden()
                | measured.Compared()
            ):
                self._due[type(report)] -= 1
                return self._due[type(report)] >= 0
            case measured.Captured():
                return self._has_capture_rules and control.Serve in self._told
            case control.Beat():
                return is_ready


def _is_later(before: control.Tally, after: control.Tally) -> bool:
    errors = after.runtime + after.deadline + after.client + after.non_finite
    return max(errors, sum(after.latency)) <= after.request_count and all(
        earlier <= later
        for earlier, later in (
            (before.request_count, after.request_count),
            (before.row_count, after.row_count),
            (before.runtime, after.runtime),
            (before.deadline, after.deadline),
            (before.client, after.client),
            (before.non_finite, after.non_finite),
            *zip(before.latency, after.latency, strict=False),
        )
    )


def _is_comparison(said: measured.Compared) -> bool:
    """Whether no part is more than the whole."""
    not_agreed = said.refused_count + said.failed_count
    return said.agree_count + not_agreed <= said.row_count and all(
        each.disagree_count <= each.row_count <= said.row_count for each in said.classes
    )


def _name(report: control.Report) -> str:
    return f"report `{type(report).__struct_config__.tag!s}`"
