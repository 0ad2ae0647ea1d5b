"""The command line as a whole: what each command imports, and how a wrong one is told."""

import subprocess
import sys
from importlib import import_module

import pytest
import typer

from fleet.cli.main import MODULES

HEAVY = {"sqlalchemy", "tuf", "securesystemslib", "fastapi", "numpy", "onnx", "sklearn"}


@pytest.mark.parametrize("module", MODULES)
def test_each_module_adds_the_commands_that_it_is_listed_with(module):
    part = typer.Typer()
    import_module(f"fleet.cli.{module}").register(part)
    assert sorted(typer.main.get_group(part).commands) == sorted(MODULES[module])


@pytest.mark.parametrize(
    "module", ["devices", "rollouts", "quarantine", "tokens", "audit", "watch"]
)
def test_a_command_that_only_asks_the_controller_imports_nothing_heavy(module):
    code = f"import sys, fleet.cli.main, fleet.cli.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_a_mistyped_command_is_told_which_was_meant():
    argv = [sys.executable, "-m", "fleet", "rolout"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'rollout'" in done.stderr
