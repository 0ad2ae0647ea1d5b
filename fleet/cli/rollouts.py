"""`fleet rollout …`, `rollouts`, `rollback`."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from pydantic import ValidationError

from fleet.api.schemas import (
    GuardsIn,
    ProbationIn,
    RollbackIn,
    RollbackResult,
    Rollout,
    RolloutIn,
)

from .client import Client
from .console import (
    HALTED,
    INCONCLUSIVE,
    Controller,
    Json,
    Match,
    ago,
    confirm,
    counted,
    given_name,
    given_release_or_alias,
    parse_seconds,
    parse_tags,
    say,
    show,
    show_facts,
    show_json,
)
from .follow import follow_rollback, follow_rollout
from .shadows import facts, given_shadow, show_trial

EXIT_CODES: Final = {"halted": HALTED, "aborted": HALTED, "inconclusive": INCONCLUSIVE}

_OPTIONS: Final = {
    "phases": "--phases",
    "soak_s": "--soak",
    "min_s": "--probation-min",
    "max_s": "--probation-max",
    "probation": "--probation-min",
    "duration_s": "--shadow",
    "min_agreement": "--min-agreement",
    "atol": "--shadow-atol",
}

Id = Annotated[str, typer.Argument(help="The rollout's id; `fleet rollouts` lists them.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    rollout = typer.Typer(help="One rollout.", no_args_is_help=True)
    rollout.command("start")(start)
    rollout.command("show")(show_rollout)
    rollout.command("approve")(approve)
    rollout.command("pause")(pause)
    rollout.command("resume")(resume)
    rollout.command("abort")(abort)
    app.add_typer(rollout, name="rollout")
    app.command("rollouts")(list_rollouts)
    app.command("rollback")(rollback)


def start(
    release: Annotated[
        str, typer.Argument(help="NAME:VERSION, such as digits:1.0.0, or NAME@ALIAS.")
    ],
    match: Match = None,
    phases: Annotated[
        str, typer.Option(help="Cumulative: a number of devices, or a share of them.")
    ] = "1,50%,100%",
    soak: Annotated[
        str, typer.Option(help="How long a phase must stay good before the next one.")
    ] = "60s",
    tolerance: Annotated[
        int, typer.Option(min=0, help="Failed devices that do not yet halt the rollout.")
    ] = 0,
    probation_min: Annotated[
        str, typer.Option(help="How long the new release serves on trial, at least.")
    ] = "30s",
    probation_max: Annotated[
        str, typer.Option(help="After this long without traffic the golden rows decide.")
    ] = "10m",
    min_inferences: Annotated[
        int, typer.Option(min=0, help="Requests it must have answered by then.")
    ] = 1,
    error_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of failed requests that rolls back.")
    ] = 0.05,
    min_requests: Annotated[
        int, typer.Option(min=1, help="Requests before shares and latency are judged.")
    ] = 20,
    non_finite_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of NaN or infinite answers that rolls back.")
    ] = 0.05,
    p99_ms: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=100_000, help="Slower rolls back; else what the bundle declares."
        ),
    ] = None,
    p99_ratio: Annotated[
        float,
        typer.Option(min=1, max=1_000_000, help="So many times slower than before rolls back."),
    ] = 3.0,
    memory_growth_mb: Annotated[
        int, typer.Option(min=1, max=1_048_576, help="Memory growing by more rolls back.")
    ] = 32,
    output_psi: Annotated[
        float | None,
        typer.Option(
            min=0, max=1000, help="Answers so far from the reference roll back; else none."
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="Once it has finished, have this alias mean the release: champion."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            help="Try it so long as a shadow on the first phase's devices before; else not."
        ),
    ] = None,
    shadow_sample: Annotated[
        str, typer.Option(help="Share of the requests that the shadow is given.")
    ] = "10%",
    min_agreement: Annotated[
        float, typer.Option(help="Share of rows that must be proven to agree; below 1.")
    ] = 0.98,
    min_shadow_rows: Annotated[int, typer.Option(min=1, help="Rows that must be compared.")] = 500,
    shadow_rtol: Annotated[
        float, typer.Option(min=0, max=1, help="Numbers agree within this share.")
    ] = 0.01,
    shadow_atol: Annotated[
        float, typer.Option(min=0, help="And within this, in their own unit.")
    ] = 0.0,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it to its end.")] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Move devices to a release, phase by phase; it halts and rolls back by itself."""
    name, version = given_release_or_alias(release)
    try:
        body = RolloutIn(
            model=name,
            version=version,
            match=parse_tags(match, option="--match"),
            phases=[share.strip() for share in phases.split(",")],
            soak_s=parse_seconds(soak, option="--soak"),
            tolerance=tolerance,
            alias=given_name(alias, what="alias") if alias is not None else None,
            probation=ProbationIn(
                min_s=parse_seconds(probation_min, option="--probation-min"),
                max_s=parse_seconds(probation_max, option="--probation-max"),
                min_inferences=min_inferences,
            ),
            guards=GuardsIn(
                error_ratio=error_ratio,
                min_requests=min_requests,
                non_finite_ratio=non_finite_ratio,
                p99_ms=p99_ms,
                p99_ratio=p99_ratio,
                memory_growth_mb=memory_growth_mb,
                output_psi=output_psi,
            ),
            shadow=given_shadow(
                shadow,
                sample=shadow_sample,
                min_agreement=min_agreement,
                min_rows=min_shadow_rows,
                tolerances=(shadow_rtol, shadow_atol),
            ),
        )
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        name = str(fault["loc"][0]) if fault["loc"] else "probation"
        why = fault["msg"].removeprefix("Value error, ")
        if name == "phases":
            if fault["type"] == "string_pattern_mismatch":
                why = f"{fault['input']!r} is neither a number of devices nor a share of them"
            why += "; write them like 1,50%,100%"
        raise typer.BadParameter(why, param_hint=_OPTIONS.get(name, name)) from exc
    with Client(controller) as client:
        rollout = client.post("/v1/rollouts", body, Rollout)
        if not json:
            found = f"{rollout.model}:{rollout.version}"
            say(f"rollout {rollout.id}: {found} to {counted(_size(rollout), 'device')}")
            say(f"  each serves it on probation first: {_trial(body.probation)}")
        if wait:
            rollout = follow_rollout(client, rollout, is_quiet=json)
    if json:
        show_json(rollout.model_dump(mode="json"))
    elif wait:
        typer.echo(f"{rollout.state}: {rollout.reason}")
    else:
        typer.echo(f"next: fleet rollout show {rollout.id}")
    if wait and (code := EXIT_CODES.get(rollout.state)):
        raise typer.Exit(code)


def _trial(probation: ProbationIn) -> str:
    """Return what a release must do to be confirmed; who waits for it may have to send requests."""
    asked = f", and {counted(probation.min_inferences, 'request')} answered"
    return f"{probation.min_s:g} s at least{asked if probation.min_inferences else ''}"


def show_rollout(
    rollout: Id,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show a rollout: its phases, and every device in it."""
    with Client(controller) as client:
        found = _with_all_members(client, given_name(rollout, what="rollout id"))
    if json:
        show_json(found.model_dump(mode="json"))
        return
    show_facts(
        [
            ("rollout", found.id),
            ("release", f"{found.model}:{found.version}"),
            ("devices", " ".join(f"{k}={v}" for k, v in found.match.items()) or "all"),
            ("state", found.state),
            ("reason", found.reason),
            *_approval(found),
            *([("then", f"@{found.alias} is this release")] if found.alias else []),
            ("started", ago(found.created_unix_ms)),
            ("counts", _counts(found)),
            *facts(found.shadow),
        ]
    )
    show_trial(found.shadow)
    typer.echo()
    show(
        [
            {"PHASE": number, "SHARE": p.share, "DEVICES": p.size, "STATE": p.state}
            for number, p in enumerate(found.phases, start=1)
        ],
        empty="no phase",
    )
    typer.echo()
    show(
        [
            {
                "DEVICE": member.device,
                "PHASE": member.phase + 1,
                "STATE": member.state.replace("_", " "),
                "BEFORE": member.previous_version,
                "CODE": member.code,
                "DETAIL": member.detail,
            }
            for member in found.members or ()
        ],
        empty="no device",
    )


def _with_all_members(client: Client, rollout: str) -> Rollout:
    found = client.get(f"/v1/rollouts/{rollout}", Rollout)
    members = page = found.members or []
    while page and len(members) < sum(found.counts.values()):
        path = f"/v1/rollouts/{rollout}?after={page[-1].device}"
        page = client.get(path, Rollout).members or []
        members += page
    return found


def list_rollouts(json: Json = False, controller: Controller = None) -> None:
    """List the rollouts, newest first."""
    with Client(controller) as client:
        found = client.list("/v1/rollouts", Rollout)
    if json:
        show_json([rollout.model_dump(mode="json") for rollout in found])
        return
    show(
        [
            {
                "ROLLOUT": rollout.id,
                "RELEASE": f"{rollout.model}:{rollout.version}",
                "STATE": rollout.state,
                "STARTED": ago(rollout.created_unix_ms),
                "DEVICES": _counts(rollout),
                "REASON": rollout.reason,
            }
            for rollout in found
        ],
        empty="no rollout yet; `fleet rollout start NAME:VERSION` starts one",
    )


def approve(rollout: Id, controller: Controller = None) -> None:
    """Start a proposed rollout; whoever asked for it cannot."""
    _act(rollout, "approve", controller)


def pause(rollout: Id, controller: Controller = None) -> None:
    """Open no further phase; what has begun goes on, and still halts on failures."""
    _act(rollout, "pause", controller)


def resume(rollout: Id, controller: Controller = None) -> None:
    """Go on with a paused rollout."""
    _act(rollout, "resume", controller)


def abort(
    rollout: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    controller: Controller = None,
) -> None:
    """End a rollout: devices that have not confirmed return to their previous release."""
    confirm(f"Abort {rollout}, and set unconfirmed devices back?", is_sure=yes)
    _act(rollout, "abort", controller)


def rollback(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    match: Match = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until every device has answered.")] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Return each device to the release that it confirmed before the present one."""
    name = given_name(model, what="model name")
    tags = parse_tags(match, option="--match")
    where = " ".join(f"{k}={v}" for k, v in tags.items()) or "ALL devices"
    confirm(f"Roll {name} back on {where}?", is_sure=yes)
    with Client(controller) as client:
        result = client.post("/v1/rollbacks", RollbackIn(model=name, match=tags), RollbackResult)
        if json:
            show_json(result.model_dump(mode="json"))
        else:
            show(
                [
                    {
                        "DEVICE": device.device,
                        "FROM": device.from_version,
                        "TO": device.to_version or "stays",
                        "REASON": device.reason,
                    }
                    for device in result.devices
                ],
                empty="no device has these tags",
            )
        if wait:
            follow_rollback(client, result)


def _act(rollout: str, verb: str, controller: str | None) -> None:
    path = f"/v1/rollouts/{given_name(rollout, what='rollout id')}/{verb}"
    with Client(controller) as client:
        found = client.post(path, None, Rollout)
    reason = f": {found.reason}" if found.reason else ""
    typer.echo(f"{found.id} is {found.state}{reason}")


def _approval(rollout: Rollout) -> list[tuple[str, object]]:
    if rollout.approval is None:
        return []
    asked = f"asked for by {rollout.approval.asked_by}"
    answer = rollout.approval.approved_by
    return [("approval", f"{asked}, {f'given by {answer}' if answer else 'waited for'}")]


def _size(rollout: Rollout) -> int:
    return rollout.phases[-1].size if rollout.phases else 0


def _counts(rollout: Rollout) -> str:
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in rollout.counts.items() if n)
