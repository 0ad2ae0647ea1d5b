"""Every command that a document names is there, with every option that it is given."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import typer

from agent.cli import _parser
from fleet.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOT_COMMAND = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(text):
    """Yield the words of each command in a document: of its blocks, and between backquotes."""
    lines = re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        command = re.split(r"\s+#|\s*[|;>]|&&", line.strip())[0]
        try:
            words = shlex.split(command)
        except ValueError:
            continue  # prose with an apostrophe
        if words and words[0] in ("fleet", "fleet-agent", "make"):
            yield words


def fault_of_fleet(words):
    command = ROOT_COMMAND
    known = options_of(command)
    for word in words[1:]:
        if word.startswith("--"):
            if word.partition("=")[0] not in known:
                return f"has no {word}"
        elif hasattr(command, "get_command") and re.fullmatch("[a-z-]+", word):
            if (found := command.get_command(None, word)) is None:
                return f"has no command {word}"
            command = found
            known |= options_of(command)
    return None


def options_of(command):
    return {"--help"}.union(*(set(p.opts) | set(p.secondary_opts) for p in command.params))


def fault_of_agent(words):
    actions = _parser()._actions
    parts = next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices
    name = words[1] if len(words) > 1 else ""
    if not re.fullmatch("[a-z-]+", name) or name.startswith("-"):
        return None
    if name not in parts:
        return f"has no command {name}"
    known = {text for a in [*actions, *parts[name]._actions] for text in a.option_strings}
    unknown = [w for w in words if w.startswith("--") and w.partition("=")[0] not in known]
    return f"has no {unknown[0]}" if unknown else None


def fault_of_make(words):
    unknown = [w for w in words[1:] if "=" not in w and w not in TARGETS]
    return f"has no target {unknown[0]}" if unknown else None


FAULTS = {"fleet": fault_of_fleet, "fleet-agent": fault_of_agent, "make": fault_of_make}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_command_of_a_document_is_there(path):
    found = [(words, FAULTS[words[0]](words)) for words in commands(path.read_text())]
    assert [f"{shlex.join(words)}: {fault}" for words, fault in found if fault] == []


@pytest.mark.parametrize(
    "text",
    [
        "`fleet rolout`",
        "`fleet rollout start --soke 1s`",
        "`fleet-agent run --conf x`",
        "`make tset`",
    ],
)
def test_what_is_not_there_is_found(text):
    (words,) = commands(text)
    assert FAULTS[words[0]](words)
