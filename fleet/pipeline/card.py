"""The model card: what people should know of a model before they use it, in Markdown.

The sections are those of Mitchell et al., Model Cards for Model Reporting, 2019, as far as a run knows
them; intended use and limits are the author's own words. The card goes into the bundle, so its bytes
follow from the run's inputs alone: no time, machine or run is in it, and of what is measured on a
machine, as latency, only that it was judged. Figures have four digits, which rounding in the last
bits does not reach. The comparison names the champion, which is an input of the run too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .comparison import Comparison
from .evaluation import ALL, Evaluation, Figure
from .verdict import COSTS, Verdict

MAX_ROWS: Final = 100
"""Of a table; what is beyond is counted."""
MAX_NAMES: Final = 50
MAX_CELL_BYTES: Final = 64
"""So that all tables at their longest, escaped, and both pieces of prose fit into a bundle's card."""
MAX_PROSE_BYTES: Final = 4000
MAX_CONFUSION_CLASSES: Final = 12
_MEASURED: Final = frozenset(COSTS) - {"bytes"}
_SPECIAL: Final = frozenset("\\`*_{}[]<>#|~&!$")
_OUTCOMES: Final = {
    "bless": "blessed",
    "refuse": "refused",
    "inconclusive": "open: the rows do not tell",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        name: Of the model.
        version: Of the release; empty where it is not known yet.
        model_sha256: Of `model.onnx`, the converted model that was evaluated.
        model_bytes: Its size.
        evaluation: On the test rows.
        verdict: What followed.
        comparison: With the champion, or None.
        champion: Which that is, by version or digest.
        intended_use: The author's words.
        limits: The author's words on what it is not for.
        data: What the rows are, in order: sources with digests, label, split.
        part_rows: How many rows train, validation and test have.
        feature_names: In the model's order.
        parameters: That it was trained with.
        parity: A line for each output on how far the converted model is from the original.
        lineage: Code, lock, seed and whatever else it came from.
    """

    name: str
    version: str
    model_sha256: str
    model_bytes: int
    evaluation: Evaluation
    verdict: Verdict
    comparison: Comparison | None = None
    champion: str = ""
    intended_use: str = ""
    limits: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    part_rows: Mapping[str, int] = field(default_factory=dict)
    feature_names: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    parity: Sequence[str] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)


def make_card(facts: CardFacts) -> str:
    """Return the card, at most `wire.manifest.MAX_CARD_BYTES` of UTF-8 however large the facts are."""
    evaluation = facts.evaluation
    sections = [
        ("", _head(facts)),
        ("Intended use", _prose(facts.intended_use, "The author has not said what it is for.")),
        ("Data", _data(facts)),
        ("Training", _pairs(facts.parameters, ("parameter", "value"))),
        ("Conversion", _parity(facts)),
        ("Evaluation", _evaluation(evaluation)),
        ("By slice", _slices(evaluation.figures)),
        ("Confusion", _confusion(evaluation)),
        ("Comparison", _comparison(facts)),
        ("Verdict", _verdict(facts.verdict)),
        ("Limits", _limits(facts)),
        ("Lineage", _pairs(facts.lineage, ("what", "which"))),
    ]
    lines: list[str] = []
    for title, body in sections:
        if body:
            lines += ([f"## {title}", ""] if title else []) + [*body, ""]
    return "\n".join(lines)


def _head(facts: CardFacts) -> list[str]:
    title = f"{facts.name} {facts.version}".strip()
    rows = [
        ("kind", facts.evaluation.kind),
        ("verdict", _OUTCOMES[facts.verdict.outcome]),
        ("model.onnx", f"{facts.model_bytes} bytes, sha256 {facts.model_sha256[:16]}…"),
    ]
    return [
        f"# {plain(title)}",
        "",
        *_table(("what", "which"), rows),
        "",
        "All figures are of the converted model, as devices run it, which this digest names:",
        "",
        f"    {facts.model_sha256}",
    ]


def _data(facts: CardFacts) -> list[str]:
    lines = _pairs(facts.data, ("what", "which"))
    if facts.part_rows:
        parts = ", ".join(f"{plain(part)} {count}" for part, count in facts.part_rows.items())
        lines += ["", f"Rows: {parts}."]
    if names := facts.feature_names:
        listed = ", ".join(plain(name) for name in names[:MAX_NAMES])
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        lines += ["", f"Features ({len(names)}): {listed}{more}."]
    return lines


def _parity(facts: CardFacts) -> list[str]:
    if not facts.parity:
        return []
    said = [f"- {plain(line, 200)}" for line in facts.parity[:MAX_NAMES]]
    return ["The converted model beside the original, on the same rows:", "", *said]


def _evaluation(evaluation: Evaluation) -> list[str]:
    level = f"{100 * evaluation.confidence:.4g} %"
    return [
        f"On {evaluation.row_count} test rows that training has not seen.",
        f"Intervals are at {level} each, and take rows as independent.",
        "",
        *_figures([f for f in evaluation.figures if f.slice == ALL], "value", with_slice=False),
    ]


def _slices(figures: Sequence[Figure]) -> list[str]:
    found = [f for f in figures if f.slice != ALL]
    return _figures(found, "value", with_slice=True) if found else []


def _figures(figures: Sequence[Figure], value: str, *, with_slice: bool) -> list[str]:
    head = ["metric", value, "interval", "rows", "method"]
    rows = [
        [
            f.metric,
            _number(f.value) if f.value is not None else f.fault.replace("_", " "),
            f"{_number(f.low)} to {_number(f.high)}" if f.low is not None else "",
            str(f.row_count),
            f.method.replace("_", " "),
        ]
        for f in figures
    ]
    if with_slice:
        head = ["slice", *head]
        rows = [[f.slice or "all rows", *row] for f, row in zip(figures, rows, strict=True)]
    return _table(head, rows)


def _confusion(evaluation: Evaluation) -> list[str]:
    if not 0 < len(evaluation.classes) <= MAX_CONFUSION_CLASSES:
        return []
    rows = [
        (label, *map(str, counts))
        for label, counts in zip(evaluation.classes, evaluation.confusion, strict=True)
    ]
    return ["Rows by what they are and what was answered:", "",
            *_table(("is", *evaluation.classes), rows)]  # fmt: skip


def _comparison(facts: CardFacts) -> list[str]:
    comparison = facts.comparison
    if comparison is None:
        return ["There was no champion to compare with."]
    lines = [
        f"With {plain(facts.champion) or 'the champion'}, on the same rows, pair by pair.",
        "Each figure is this model's less the champion's.",
        "",
        *_figures(comparison.changes, "change", with_slice=True),
    ]
    if (pairs := comparison.mcnemar) is not None:
        method = pairs.method.replace("_", "-")
        lines += [
            "",
            f"Only this model has {pairs.challenger_only} of {comparison.row_count} rows right,",
            f"only the champion {pairs.champion_only}: McNemar's p is {_number(pairs.p_value)} ({method}).",
        ]
    return lines


def _verdict(verdict: Verdict) -> list[str]:
    lines = [f"The model is {_OUTCOMES[verdict.outcome]}.", ""]
    for reason in verdict.reasons[:MAX_NAMES]:
        if reason.metric in _MEASURED:
            said = f"{reason.metric} was judged on the machine of the run."
        else:
            said = plain(reason.sentence, 250)
        lines.append(f"- {said[:1].upper()}{said[1:]}")
    if len(verdict.reasons) > MAX_NAMES:
        lines.append(f"- and {len(verdict.reasons) - MAX_NAMES} more")
    return lines


def _limits(facts: CardFacts) -> list[str]:
    lines = _prose(facts.limits, "The author has not said what it is not for.")
    few = sorted({f.slice for f in facts.evaluation.figures if f.fault == "too_few_rows"})
    if few:
        names = ", ".join(plain(name or "all rows") for name in few[:MAX_NAMES])
        more = f" and {len(few) - MAX_NAMES} more" if len(few) > MAX_NAMES else ""
        lines += ["", f"Nothing is known of it on {names}{more}: too few rows."]
    return [
        *lines,
        "",
        "The figures hold for rows like those of the test. Rows that depend on each other make the",
        "intervals too narrow. On devices, drift tells when the rows have become others.",
    ]


def _prose(text: str, without: str) -> list[str]:
    """Return an author's words as a quotation, in which no line can pass for ours."""
    cleaned = "".join(
        c for c in _cut(text, MAX_PROSE_BYTES) if c.isprintable() or c == "\n"
    ).strip()
    lines = [line.rstrip().replace("<", "&lt;") for line in cleaned.split("\n")]
    return [f"> {line}".rstrip() for line in lines] if cleaned else [without]


def _pairs(pairs: Mapping[str, object], head: tuple[str, str]) -> list[str]:
    return _table(head, [(name, str(value)) for name, value in pairs.items()]) if pairs else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    listed = list(rows)
    lines = [_line(head), "|" + " --- |" * len(head)]
    lines += [_line(row) for row in listed[:MAX_ROWS]]
    if len(listed) > MAX_ROWS:
        lines += ["", f"And {len(listed) - MAX_ROWS} more."]
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain(cell) for cell in cells)} |"


def plain(text: str, limit: int = MAX_CELL_BYTES) -> str:
    """Return text that Markdown shows as it is, on one line."""
    shown = "".join(c if c.isprintable() else " " for c in _cut(text, limit))
    return "".join(f"\\{c}" if c in _SPECIAL else c for c in shown)


def _cut(text: str, limit: int) -> str:
    encoded = text.encode(errors="replace")
    whole = encoded.decode()
    return whole if len(encoded) <= limit else f"{encoded[:limit].decode(errors='ignore')}…"


def _number(value: float | None) -> str:
    # Without a minus before a zero, which rounding may leave.
    return "" if value is None else f"{value + 0.0:.4g}"
