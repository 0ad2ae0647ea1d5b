"""`fleet alerts` and `fleet alert …`: what is wrong, and who has heard of it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fleet.api.alert_schemas import (
    MAX_SILENCE_S,
    MAX_WHY_CHARS,
    Alert,
    AlertTest,
    Silence,
    SilenceIn,
)
from wire.errors import TransferError

from .client import Client
from .console import (
    Controller,
    Json,
    Match,
    ago,
    given_name,
    parse_seconds,
    parse_tags,
    show,
    show_json,
)

Number = Annotated[int, typer.Argument(min=1, help="Its number, from the list.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("alerts")(list_alerts)
    alert = typer.Typer(help="Alerts: acknowledge, silence, try.", no_args_is_help=True)
    alert.command("acknowledge")(acknowledge)
    alert.command("silence")(silence)
    alert.command("silences")(list_silences)
    alert.command("unsilence")(unsilence)
    alert.command("test")(try_out)
    app.add_typer(alert, name="alert")


def list_alerts(
    every: Annotated[
        bool, typer.Option("--all", help="Those of the last 30 days that are over, too.")
    ] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List the alerts, newest first."""
    with Client(controller) as client:
        found: list[Alert] = []
        page: list[Alert] | None = None
        while page is None or page:
            before = found[-1].id if found else None
            page = client.list("/v1/alerts", Alert, all=int(every), before=before)
            found += page
    if json:
        show_json([alert.model_dump(mode="json") for alert in found])
        return
    show(
        [
            {
                "ID": alert.id,
                "STATE": state_of(alert),
                "SEVERITY": alert.severity,
                "RULE": alert.rule,
                "SINCE": ago(alert.began_unix_ms),
                "ALERT": alert.text,
            }
            for alert in found
        ],
        empty="no alert",
    )


def acknowledge(id: Number, controller: Controller = None) -> None:
    """Say that you know: nobody is told of it again until it is over."""
    with Client(controller) as client:
        alert = client.post(f"/v1/alerts/{id}/acknowledge", None, Alert)
    typer.echo(f"{alert.text}: acknowledged by {alert.acknowledged_by}")


def silence(
    for_: Annotated[str, typer.Option("--for", help="How long, such as 2h or 1d.")],
    why: Annotated[str, typer.Option(help="Why; the list shows it.")],
    rule: Annotated[str | None, typer.Option(help="Only alerts of this rule.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Only subjects of this form, such as cam-*.")
    ] = None,
    match: Match = None,
    controller: Controller = None,
) -> None:
    """Have nobody told of some alerts for a time; what goes on after it is told then."""
    for_s = int(parse_seconds(for_, option="--for"))
    if not 1 <= for_s <= MAX_SILENCE_S:
        raise typer.BadParameter("between 1s and 366d", param_hint="--for")
    if not 1 <= len(why) <= MAX_WHY_CHARS:
        raise typer.BadParameter(f"between 1 and {MAX_WHY_CHARS} characters", param_hint="--why")
    tags = parse_tags(match, option="--match")
    if rule is None and subject is None and not tags:
        raise typer.BadParameter(
            'or --subject, or --match, says which; --subject "*" is every one', param_hint="--rule"
        )
    body = SilenceIn(
        rule=given_name(rule, what="rule") if rule is not None else None,
        subject=subject,
        match=tags,
        for_s=for_s,
        why=why,
    )
    with Client(controller) as client:
        made = client.post("/v1/silences", body, Silence)
    typer.echo(f"silence {made.id}: {_about(made)}, until {_at(made.until_unix_ms)}")


def list_silences(json: Json = False, controller: Controller = None) -> None:
    """List the silences that hold."""
    with Client(controller) as client:
        found = client.list("/v1/silences", Silence)
    if json:
        show_json([silence.model_dump(mode="json") for silence in found])
        return
    show(
        [
            {
                "ID": silence.id,
                "ALERTS": _about(silence),
                "UNTIL": _at(silence.until_unix_ms),
                "BY": silence.created_by,
                "WHY": silence.why,
            }
            for silence in found
        ],
        empty="no silence",
    )


def unsilence(id: Number, controller: Controller = None) -> None:
    """End a silence: what it held back is told, if it still fires."""
    with Client(controller) as client:
        client.delete(f"/v1/silences/{id}")
    typer.echo(f"silence {id} is over")


def try_out(json: Json = False, controller: Controller = None) -> None:
    """Send a test alert to every receiver; say what each answered."""
    with Client(controller) as client:
        said = client.post("/v1/alert-tests", None, AlertTest)
    if json:
        show_json(said.model_dump(mode="json"))
    else:
        show(
            [
                {
                    "RECEIVER": answer.receiver,
                    "TOOK IT": "yes" if answer.is_taken else "NO",
                    "ANSWER": answer.answer,
                }
                for answer in said.receivers
            ],
            empty="no receiver",
        )
    deaf = [answer.receiver for answer in said.receivers if not answer.is_taken]
    if deaf:
        raise TransferError(
            f"not taken by {', '.join(deaf)}",
            code="not_delivered",
            hint="check [[alerts.webhook]] in fleet.toml; the controller reads it at its start",
        )


def state_of(alert: Alert) -> str:
    """Return where an alert stands, in words."""
    if alert.state == "firing" and alert.acknowledged_by:
        return f"known to {alert.acknowledged_by}"
    if alert.state != "resolved" and alert.is_silenced:
        return f"{alert.state}, silenced"
    return "over" if alert.state == "resolved" else alert.state


def _about(silence: Silence) -> str:
    tags = " ".join(f"{key}={value}" for key, value in sorted(silence.match.items()))
    return " ".join(filter(None, (silence.rule or "every rule", silence.subject, tags)))


def _at(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_ms / 1000))
