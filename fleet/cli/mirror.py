"""`fleet mirror …`: what the fleet has released, in a registry where others look."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import typer

from fleet.api.lineage_schemas import Lineage, ManifestOrigin
from fleet.api.run_schemas import RunRecord
from fleet.api.schemas import Release
from fleet.core.mirror import (
    PREFIX,
    AliasPlan,
    Origin,
    Released,
    changed_tags,
    find_version,
    plan_aliases,
    stale_tags,
)
from fleet.interop.mlflow import Registry

from .client import Client, all_pages
from .console import Controller, Json, given_name, say, show, show_json

SOURCE: Final = "modelfleet:/"
"""Of a version that MLflow has no file of: it says where it is, and nobody can load it from there."""
MAX_METRICS: Final = 100
"""Of a run that become tags."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    mirror = typer.Typer(help="Releases in a registry of others.", no_args_is_help=True)
    mirror.callback()(_group)
    mirror.command("mlflow")(mlflow)
    app.add_typer(mirror, name="mirror")


def _group() -> None:
    pass


def mlflow(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="Where MLflow is; else MLFLOW_TRACKING_URI.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="The model's name in MLflow; else the same.")
    ] = None,
    take_aliases: Annotated[
        bool,
        typer.Option("--take-aliases", help="Move aliases too that others have set in MLflow."),
    ] = False,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Have MLflow's model registry say what the fleet has released; again, it changes nothing."""
    wanted = given_name(model, what="model name")
    there = given_name(name, what="model name") if name is not None else wanted
    with Client(controller) as client:
        path = f"/v1/models/{wanted}/releases"
        releases = all_pages(client, path, Release, lambda release: release.version)
        # Numbers there count as releases were pushed.
        releases.sort(key=lambda release: release.created_unix_ms)
        lineages = [
            client.get(f"/v1/releases/{wanted}/{release.version}/lineage", Lineage)
            for release in releases
        ]
    registry = Registry(tracking_uri)
    aliases, own = registry.aliases(there)
    done = _write(registry, there, wanted, [released(found) for found in lineages])
    meant = {alias: done[release.version][0] for release in releases for alias in release.aliases}
    plan = plan_aliases(meant, aliases, own, is_taking=take_aliases)
    _move(registry, there, plan, own)
    _tell(wanted, there, done, meant, plan, json=json)


def released(found: Lineage) -> Released:
    """Return what the registry is to have of a release."""
    release = found.release
    tags = {
        "release": f"{release.model}:{release.version}",
        "signed": "dead" if release.is_dead else str(release.number or "no"),
        **(_run_tags(found.run.run) if found.run is not None else {}),
    }
    return Released(
        release.version,
        release.manifest,
        {f"{PREFIX}{key}": value for key, value in tags.items()},
        _origin(found.origin),
    )


def _run_tags(run: RunRecord) -> dict[str, str]:
    metrics = {
        # MLflow takes no other characters in the name of a tag.
        f"metric.{re.sub(r'[^A-Za-z0-9_. -]', '_', name)[:200]}": repr(value)
        for name, value in list(run.metrics.items())[:MAX_METRICS]
    }
    tags = {"run": run.run, "data_sha256": run.data.sha256, **metrics}
    if run.code.commit is not None:
        tags["code_commit"] = run.code.commit
    if run.verdict is not None:
        tags["verdict"] = run.verdict.outcome
    return tags


def _origin(said: ManifestOrigin | None) -> Origin | None:
    """Return where a bundle says that it comes from; what is no number of MLflow's is nothing."""
    told = said.parameters if said is not None else {}
    number = told.get("mlflow.version", "")
    if not re.fullmatch(r"[0-9]{1,9}", number):
        return None
    return Origin(told.get("mlflow.model", ""), int(number), told.get("mlflow.run", ""))


def _write(
    registry: Registry, there: str, model: str, releases: Sequence[Released]
) -> dict[str, tuple[int, str]]:
    """Have a version for each release; return, by the release, its number and what was done."""
    versions = registry.versions(there)
    done: dict[str, tuple[int, str]] = {}
    for release in releases:
        found = find_version(release, there, versions)
        if found is None:
            # Of no scheme that MLflow knows: its server refuses the address of the controller.
            source = f"{SOURCE}{model}/{release.version}"
            number = registry.register(there, source, release.all_tags)
            done[release.version] = (number, "registered")
            continue
        changed, stale = changed_tags(release, found.tags), stale_tags(release, found.tags)
        registry.tag(there, found.number, changed, stale)
        done[release.version] = (found.number, "tagged" if changed or stale else "as it was")
    return done


def _move(registry: Registry, model: str, plan: AliasPlan, own: frozenset[str]) -> None:
    # First: an alias that is set and not remembered would be taken for somebody else's.
    if not plan.own <= own:
        registry.own_aliases(model, own | plan.own)
    for alias, number in plan.moved.items():
        registry.set_alias(model, alias, number)
    for alias in plan.dropped:
        registry.delete_alias(model, alias)
    if plan.own < own | plan.own:
        registry.own_aliases(model, plan.own)


def _tell(
    model: str,
    there: str,
    done: Mapping[str, tuple[int, str]],
    meant: Mapping[str, int],
    plan: AliasPlan,
    *,
    json: bool,
) -> None:
    for alias in plan.left:
        say(f"{there}@{alias} means another version, by somebody else: --take-aliases moves it")
    if json:
        show_json(
            {
                "model": there,
                "versions": [
                    {"release": f"{model}:{version}", "number": number, "done": what}
                    for version, (number, what) in done.items()
                ],
                "moved": dict(plan.moved),
                "dropped": list(plan.dropped),
                "left": list(plan.left),
            }
        )
        return
    called = {
        number: " ".join(f"@{a}" for a, n in meant.items() if n == number and a not in plan.left)
        for number in meant.values()
    }
    show(
        [
            {
                "RELEASE": f"{model}:{version}",
                "IN MLFLOW": f"models:/{there}/{number}",
                "ALIASES": called.get(number, ""),
                "DONE": what,
            }
            for version, (number, what) in done.items()
        ],
        empty="no release of this model",
    )
    for alias in plan.dropped:
        typer.echo(f"{there}@{alias} is deleted there: the fleet has it no more")
