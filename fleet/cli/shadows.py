"""The trial of a rollout as a shadow, on the command line."""

from __future__ import annotations

import typer

from fleet.api.shadow_schemas import RolloutShadow, ShadowIn

from .console import counted, parse_seconds, show

MIB = 1024 * 1024


def given_shadow(
    shadow: str | None,
    *,
    sample: str,
    min_agreement: float,
    min_rows: int,
    tolerances: tuple[float, float],
) -> ShadowIn | None:
    """Return the trial that the options ask for, None without `--shadow`.

    Args:
        shadow: Its length, such as `1h`.
        sample: Share of the requests, such as `10%`.
        min_agreement: As of `ShadowIn`.
        min_rows: As of `ShadowIn`.
        tolerances: Relative and absolute, of numbers.
    """
    if shadow is None:
        return None
    rtol, atol = tolerances
    return ShadowIn(
        duration_s=parse_seconds(shadow, option="--shadow"),
        sample_ratio=_share(sample),
        min_agreement=min_agreement,
        min_rows=min_rows,
        rtol=rtol,
        atol=atol,
    )


def _share(text: str) -> float:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise typer.BadParameter(
            f"{text!r} is no share of requests; write it like 10%", param_hint="--shadow-sample"
        )
    return number


def facts(shadow: RolloutShadow | None) -> list[tuple[str, object]]:
    """Return what was compared, in lines for a person."""
    if shadow is None:
        return []
    rows = f"{shadow.row_count} compared, {shadow.needed_rows} needed"
    lines: list[tuple[str, object]] = [
        ("shadow", f"{shadow.state}, {shadow.duration_s:g} s; {rows}")
    ]
    if shadow.agreement is not None:
        between = f"between {shadow.agreement_low:.4f} and {shadow.agreement_high:.4f}"
        wanted = f"at least {shadow.min_agreement:g} wanted"
        lines.append(("agreement", f"{shadow.agreement:.4f}, {between}; {wanted}"))
    if shadow.refused_count or shadow.failed_count:
        text = f"{shadow.refused_count} rows refused, {shadow.failed_count} failed"
        lines.append(("unanswered", text))
    if shadow.sampled_count:
        text = f"{counted(shadow.sampled_count, 'request')}, {shadow.dropped_count} dropped"
        lines.append(("sampled", text))
    if shadow.active_p99_ms is not None and shadow.shadow_p99_ms is not None:
        before = f"{shadow.active_p50_ms:.3g} and {shadow.active_p99_ms:.3g} ms"
        after = f"{shadow.shadow_p50_ms:.3g} and {shadow.shadow_p99_ms:.3g} ms"
        lines.append(("p50 and p99", f"{before} active, {after} shadow at idle priority"))
    if shadow.shadow_pss_bytes:
        sizes = (shadow.active_pss_bytes // MIB, shadow.shadow_pss_bytes // MIB)
        lines.append(("memory", f"{sizes[0]} MB active, {sizes[1]} MB shadow"))
    return lines


def show_trial(shadow: RolloutShadow | None) -> None:
    """Show a trial by device, and by the label that the active release gave."""
    if shadow is None:
        return
    typer.echo()
    show(
        [
            {
                "SHADOW ON": each.device,
                "STATE": each.state or "unknown",
                "CODE": each.code,
                "ROWS": each.row_count,
                "AGREE": each.agree_count,
            }
            for each in shadow.devices
        ],
        empty="no device runs it as a shadow",
    )
    if shadow.classes:
        typer.echo()
        show(
            [
                {"LABEL": c.label or "others", "ROWS": c.row_count, "DISAGREE": c.disagree_count}
                for c in shadow.classes
            ],
            empty="",
        )
