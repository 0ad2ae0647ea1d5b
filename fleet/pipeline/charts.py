"""The pictures of a report, as SVG to stand in an HTML page. Without matplotlib there are none."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

INK: Final = "#1f2933"
QUIET: Final = "#9aa5b1"
GRID: Final = "#e4e7eb"
SERIES: Final = ("#2f6690", "#81a4cd", "#d9a05b")
"""Blue, light blue, ochre: told apart by people who do not see red or green, and in grey."""
MAX_MATRIX_CLASSES: Final = 30
MAX_BARS: Final = 40
_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        return False
    return True


def draw(title: str, size_inches: tuple[float, float], paint: Callable[[Axes], None]) -> str:
    """Return one picture as an `<svg>` element; its text is escaped by matplotlib.

    Args:
        title: What it shows, for those who do not see it.
        size_inches: Width and height.
        paint: Draws into the axes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The salt makes the ids of two pictures in one page differ, and is the same each time.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size_inches, layout="constrained")
        paint(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def stacked_shares(parts: Mapping[str, int]) -> str:
    """Return one bar, of how many rows each part has."""
    total = sum(parts.values()) or 1

    def paint(axes: Axes) -> None:
        left = 0
        for (name, count), colour in zip(parts.items(), SERIES, strict=True):
            axes.barh(0, count, left=left, color=colour, height=0.8)
            if count / total > 0.06:
                axes.text(
                    left + count / 2, 0, f"{name}\n{count:,}", ha="center", va="center",
                    color="white" if colour == SERIES[0] else INK,
                )  # fmt: skip
            left += count
        axes.set_xlim(0, total)
        axes.axis("off")

    return draw("Rows of each part", (7.2, 0.62), paint)


def class_balance(classes: Mapping[str, Mapping[str, int]]) -> str:
    """Return the share of each label in each part."""
    labels = sorted({label for counts in classes.values() for label in counts}, key=_in_order)
    labels = labels[:MAX_BARS]

    def paint(axes: Axes) -> None:
        width = 0.8 / max(1, len(classes))
        for number, ((name, counts), colour) in enumerate(
            zip(classes.items(), SERIES, strict=False)
        ):
            total = sum(counts.values()) or 1
            heights = [counts.get(label, 0) / total for label in labels]
            places = [place + (number - 1) * width for place in range(len(labels))]
            axes.bar(places, heights, width=width, color=colour, label=name)
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels])
        axes.set_ylabel("share of rows")
        axes.grid(visible=False, axis="x")
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))

    return draw("Labels in each part", (7.2, 2.2), paint)


def confusion(counts: Array, labels: Sequence[str]) -> str:
    """Return a confusion matrix, shape (n_classes, n_classes): rows are the truth, in shares of it."""
    shown = np.asarray(counts)[:MAX_MATRIX_CLASSES, :MAX_MATRIX_CLASSES]
    names = [_short(label) for label in labels[:MAX_MATRIX_CLASSES]]
    shares = shown / np.maximum(1, shown.sum(axis=1, keepdims=True))

    def paint(axes: Axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("blues", ["#ffffff", SERIES[0]])
        # Not as an image: the page lets none in, not even one that it has in itself.
        sides = [np.arange(size + 1) - 0.5 for size in shares.shape[::-1]]
        axes.pcolormesh(*sides, shares, cmap=colours, vmin=0, vmax=1, edgecolors="face")
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answered")
        axes.set_ylabel("true")
        for row, column in np.argwhere(shown > 0) if len(names) <= 15 else ():
            axes.text(
                column, row, f"{shown[row, column]:,}", ha="center", va="center", fontsize=7.5,
                color="white" if shares[row, column] > 0.5 else INK,
            )  # fmt: skip

    side = min(6.5, max(2.8, 0.36 * len(names) + 1))
    return draw("Confusion matrix", (side, side * 0.92), paint)


def calibration(said: Array, true: Array, row_counts: Array) -> str:
    """Return how often the answer was right, by the probability that the model gave it.

    Args:
        said: Mean probability in each bin, shape (n_bins,).
        true: Share of right answers in each bin.
        row_counts: Rows in each bin.
    """

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        sizes = 12 + 120 * row_counts / max(1, row_counts.max(initial=1))
        axes.plot(said, true, color=SERIES[0], linewidth=1.2)
        axes.scatter(said, true, s=sizes, color=SERIES[0], zorder=3, alpha=0.85, clip_on=False)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("probability that the model gives its answer")
        axes.set_ylabel("share of right answers")

    return draw("Calibration", (3.4, 3.1), paint)


def scatter(true: Array, answered: Array) -> str:
    """Return answers beside the truth, each shape (n_rows,)."""

    def paint(axes: Axes) -> None:
        low, high = min(true.min(), answered.min()), max(true.max(), answered.max())
        axes.plot([low, high], [low, high], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        axes.scatter(true, answered, s=9, color=SERIES[0], alpha=0.5, linewidths=0)
        axes.set_xlabel("true")
        axes.set_ylabel("answered")

    return draw("Answers beside the truth", (3.6, 3.3), paint)


def intervals(rows: Sequence[tuple[str, float, float, float]], title: str) -> str:
    """Return one figure in several slices, each with its interval: (name, value, low, high)."""
    shown = list(rows[:MAX_BARS])[::-1]

    def paint(axes: Axes) -> None:
        for place, (_, value, low, high) in enumerate(shown):
            axes.plot([low, high], [place, place], color=SERIES[1], linewidth=3)
            axes.plot([value], [place], "o", color=SERIES[0], markersize=5)
        axes.set_yticks(range(len(shown)), [_short(name, 40) for name, *_ in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel(title)
        axes.grid(visible=False, axis="y")

    return draw(title, (7.2, 0.55 + 0.24 * max(2, len(shown))), paint)


def search(values: Sequence[float | None], best: Sequence[float], metric: str) -> str:
    """Return what each trial of a search reached, and the best until then."""
    from matplotlib.ticker import MaxNLocator

    def paint(axes: Axes) -> None:
        there = [(n, v) for n, v in enumerate(values, 1) if v is not None]
        axes.scatter([n for n, _ in there], [v for _, v in there], s=14, color=SERIES[1])
        axes.step(range(1, len(best) + 1), best, where="post", color=SERIES[0], linewidth=1.4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel(metric)

    return draw(f"Search for {metric}", (7.2, 2.2), paint)


def _short(text: str, limit: int = 14) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def _in_order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
