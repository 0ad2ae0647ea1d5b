"""The accuracy over time, as a plot."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any, Final

from inspector import BIN_S

COLOURS: Final = ("tab:blue", "tab:green", "tab:purple")
MIN_COUNT: Final = 10
Z: Final = 1.96


def draw(loop: dict[str, Any], path: Path) -> None:
    """Draw how many answers to unseen pictures were right, each version in its colour, as PNG.

    Points are what the inspector counted in a few seconds, bars what the controller measured, with
    its interval.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    for colour, version in zip(COLOURS, loop["versions"].values(), strict=False):
        points = [
            one for one in loop["series"]
            if one["version"] == version and one["count"] >= MIN_COUNT
        ]  # fmt: skip
        at_s = [one["at_s"] + BIN_S / 2 for one in points]
        shares = [one["right"] / one["count"] for one in points]
        errors = [
            Z * sqrt(share * (1 - share) / one["count"])
            for share, one in zip(shares, points, strict=True)
        ]
        lows = [max(0.0, share - error) for share, error in zip(shares, errors, strict=True)]
        highs = [min(1.0, share + error) for share, error in zip(shares, errors, strict=True)]
        axes.fill_between(at_s, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot(at_s, shares, color=colour, marker=".", linewidth=1, label=f"digits {version}")
    for name, one in loop["measured"].items():
        accuracy = one["accuracy"]
        below, above = accuracy["value"] - accuracy["low"], accuracy["high"] - accuracy["value"]
        axes.errorbar(one["at_s"], accuracy["value"], yerr=[[below], [above]], fmt="ks", capsize=4)
        axes.annotate(
            f"{name}: {accuracy['value']:.1%}",
            (one["at_s"], accuracy["low"]),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
        )
    for one in loop["events"]:
        axes.axvline(one["at_s"], color="0.6", linewidth=0.8, linestyle=":")
        axes.text(one["at_s"], 0.02, f" {one['text']}", rotation=90, fontsize=8, va="bottom")
    axes.set(ylim=(0, 1.02), xlabel="seconds of the demo", ylabel="right answers, unseen pictures")
    axes.set_title("The mounts come loose: accuracy on labels that no model saw")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
