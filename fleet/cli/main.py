"""The root of the command line: groups, errors, exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fleet.cli import (
    admission,
    audit,
    convert,
    devices,
    keys,
    quarantine,
    releases,
    rollouts,
    setup,
    sign,
    tokens,
    watch,
)
from fleet.cli.bearer import FILE_VARIABLE
from fleet.cli.console import ERROR, printable, say_error
from fleet.version import VERSION
from wire.errors import ModelfleetError

app = typer.Typer(
    name="fleet",
    help="Deploy machine-learning models to a fleet of devices, and keep watch over them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
setup.register(app)
devices.register(app)
convert.register(app)
releases.register(app)
keys.register(app)
sign.register(app)
rollouts.register(app)
quarantine.register(app)
tokens.register(app)
audit.register(app)
admission.register(app)
watch.register(app)


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

    Exit codes: 0 done, 1 error, 2 wrong usage, 3 rollout halted or aborted, 4 inconclusive,
    130 interrupted (a rollout that was waited for goes on).
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
