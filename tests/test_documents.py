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


def broken_links(path):
    """Return the links of a document that lead to no file, or to no heading in it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [link for link in links if not leads_somewhere(path, *link.partition("#")[::2])]


def leads_somewhere(path, file, heading):
    place = path.parent / file if file else path
    if not place.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE) if heading else []
    return not heading or heading in {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_of_a_document_leads_somewhere(path):
    assert broken_links(path) == []


def test_every_claim_of_the_comparison_has_a_link():
    """A row of the first two tables says where, or that it is not offered."""
    text = (ROOT / "docs/compare.md").read_text().partition("## Devices")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "|---" not in line]
    assert len(rows) > 20
    claims = [row for row in rows if not row.startswith(("| component", "| part"))]
    assert [row for row in claims if "](" not in row and "**not offered" not in row] == []


def test_a_link_to_nothing_is_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text("# Two words\n[a](#two-words) [b](#three) [c](a.md) [d](b.md) [e](a.md#two)")
    assert broken_links(page) == ["#three", "b.md", "a.md#two"]


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
