"""The command line as a whole: what each command imports, and how a wrong one is told."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from fleet.api.schemas import DEFAULT_EXPIRY_S, TokenIn
from fleet.cli.main import MODULES
from fleet.cli.tokens import DEFAULT_EXPIRY, parse_life

HEAVY = {
    "alembic", "psycopg", "sqlalchemy", "tuf", "securesystemslib", "fastapi", "numpy", "onnx", "sklearn",
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_each_module_adds_the_commands_that_it_is_listed_with(module):
    part = typer.Typer()
    import_module(f"fleet.cli.{module}").register(part)
    assert sorted(typer.main.get_group(part).commands) == sorted(MODULES[module])


@pytest.mark.parametrize(
    "module",
    [
        "devices",
        "rollouts",
        "quarantine",
        "tokens",
        "audit",
        "watch",
        "aliases",
        "lineage",
        "retrain",
    ],
)
def test_a_command_that_only_asks_the_controller_imports_nothing_heavy(module):
    code = f"import sys, fleet.cli.main, fleet.cli.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


@pytest.mark.parametrize(
    ("text", "life_s"),
    [(DEFAULT_EXPIRY, DEFAULT_EXPIRY_S), ("12h", 43_200), ("never", "never")],
)
def test_a_token_is_asked_for_with_a_life_or_for_ever_in_words(text, life_s):
    assert TokenIn(name="a", role="viewer", expires_s=parse_life(text)).expires_s == life_s


@pytest.mark.parametrize("text", ["", "0s", "3661d", "Never", "none"])
def test_a_life_that_no_token_has_is_refused(text):
    with pytest.raises(typer.BadParameter):
        parse_life(text)


def test_a_mistyped_command_is_told_which_was_meant():
    argv = [sys.executable, "-m", "fleet", "rolout"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'rollout'" in done.stderr
