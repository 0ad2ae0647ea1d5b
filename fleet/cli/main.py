"""The root of the command line: groups, errors, exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from fleet.cli.bearer import FILE_VARIABLE
from fleet.cli.console import ERROR, printable, say_error
from fleet.version import VERSION
from wire.errors import ModelfleetError

if TYPE_CHECKING:
    from typer._click import Command

MODULES: Final = {
    "setup": ("init", "up", "down", "controller"),
    "devices": ("devices", "device", "telemetry"),
    "convert": ("convert",),
    "data": ("data",),
    "pipeline": ("pipeline",),
    "releases": ("push", "releases", "models"),
    "export": ("export",),
    "mirror": ("mirror",),
    "keys": ("keys",),
    "sign": ("sign", "release"),
    "rollouts": ("rollout", "rollouts", "rollback"),
    "quarantine": ("quarantine",),
    "tokens": ("token",),
    "alerts": ("alerts", "alert"),
    "audit": ("audit",),
    "store": ("store",),
    "admission": ("broker", "observer", "observers"),
    "drift": ("drift",),
    "aliases": ("alias",),
    "lineage": ("model", "lineage"),
    "retrain": ("retrain",),
    "performance": ("performance",),
    "capture": ("capture",),
    "watch": ("watch",),
}
"""The modules here, and the commands that each of them adds, in the order of the help."""


class LazyGroup(TyperGroup):
    """Imports the module of a command when that is given: all of them take twice as long."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [name for names in MODULES.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Command | None:
        """Return a command by its name, None when there is none; then all are known, to suggest one."""
        is_known = any(cmd_name in names for names in MODULES.values())
        for module, names in MODULES.items():
            if cmd_name in names or not is_known:
                self._load(module)
        return self.commands.get(cmd_name)

    def _load(self, module: str) -> None:
        if MODULES[module][0] not in self.commands:
            part = typer.Typer(rich_markup_mode=None)
            import_module(f"fleet.cli.{module}").register(part)
            self.commands.update(typer.main.get_group(part).commands)


app = typer.Typer(
    cls=LazyGroup,
    name="fleet",
    help="Deploy machine-learning models to a fleet of devices, and keep watch over them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"fleet {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False,
        "--version",
        help="Print the version and exit.",
        is_eager=True,
        callback=_show_version,
    ),
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token for the API; else FLEET_TOKEN, else the fleet's admin.token.",
            envvar=FILE_VARIABLE,
        ),
    ] = None,
) -> None:
    if token_file is not None:
        os.environ[FILE_VARIABLE] = str(token_file.absolute())


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 rollout halted or aborted, or data
    with anomalies, 4 inconclusive, 130 interrupted (a rollout that was waited for goes on).
    """
    try:
        app()  # ends by SystemExit; usage errors are shown by typer, with code 2
    except ModelfleetError as exc:
        say_error(exc)
        sys.exit(ERROR)
    except OSError as exc:
        sys.stderr.write(f"fleet: {printable(str(exc))}\n")
        sys.exit(ERROR)
    sys.exit(0)
