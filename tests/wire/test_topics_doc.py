"""`docs/topics.md` says what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from wire import codec, topics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_generator_writes():
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docs/topics.md is out of date, run `make docs`\n{done.stderr}"


@pytest.mark.parametrize("channel", codec.PAYLOADS)
def test_every_field_of_a_payload_is_on_the_page(channel):
    section = PAGE.split(f"\n### `{channel}`\n")[1].split("\n## ")[0].split("\n### ")[0]
    for name, field in codec.PAYLOADS[channel].model_fields.items():
        assert f"| `{field.alias or name}` |" in section


def test_every_topic_is_on_the_page():
    every = [
        topics.Presence("<device>"),
        topics.Desired("<device>"),
        topics.Reported("<device>"),
        topics.Ack("<device>"),
        topics.Feedback("<device>"),
        topics.Chunk("<sha256>"),
        *(topics.Trust(role) for role in ("timestamp", "snapshot", "targets", "root-<N>")),
        topics.ModelTrust("<model>"),
        topics.ControllerPresence(),
        topics.ControllerAlert(),
        *(topics.Event("<device>", kind) for kind in topics.EVENT_KINDS),
        *(topics.Telemetry("<device>", kind) for kind in topics.TELEMETRY_KINDS),
    ]
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{topics.ROOT}/")]
    assert len(rows) == len(every)
    for topic in every:
        retained = "yes" if topic.retain else "no"
        start = f"| `{topic.text}` | {topic.writer} | {topic.qos} | {retained} |"
        assert any(row.startswith(start) for row in rows)
