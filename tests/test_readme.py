"""Every command of the README, executed as it stands there, against the real programs.

The blocks run in a network namespace of their own, so that the ports in them are free whatever else
this machine does. Directives in HTML comments say what a reader sees from the text: which block
keeps a terminal busy, which one is worth a second try.

    <!-- readme: skip, REASON -->                      not run; for `make` alone
    <!-- readme: background, until: COMMAND -->        runs on; the next block waits for COMMAND
    <!-- readme: background as NAME -->                runs on; `after NAME` waits for its good end
    <!-- readme: after NAME -->
    <!-- readme: retry -->                             again until it succeeds, for a minute
    <!-- readme: needs PROGRAM -->                     left out, and said so, without that program
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.spine.soundness import absent

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(
    r"(?:^<!-- readme: (?P<how>[^\n]*?) -->\n)?^```sh\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
DIRECTIVE = re.compile(
    r"(?P<kind>skip|background|after|retry|needs)(?:, (?P<why>(?!until: ).*))?"
    r"(?: as (?P<name>\w+)| (?P<word>[\w-]+))?(?:, until: (?P<until>.*))?"
)
TIMEOUT_S = 280

LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as probe:
    SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
    fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
os.execvp(sys.argv[1], sys.argv[1:])
"""

PRELUDE = """
set -uo pipefail
set -m  # each background block is a process group, so that all of it can be ended
cd "$CHECKOUT"
jobs_started=()
finish() {
    local code=$?
    for pid in "${jobs_started[@]}"; do kill -TERM -- "-$pid" 2>/dev/null; done
    wait
    for log in "$LOGS"/*.log; do echo "===== $(basename "$log")"; tail -c 4000 "$log"; done
    exit "$code"
}
trap finish EXIT
fail() { echo "FAILED: $1"; exit 1; }
poll() {  # poll SECONDS PID COMMAND...: until it succeeds; PID, unless 0, must live meanwhile
    local deadline=$((SECONDS + $1)) pid=$2; shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        [ "$pid" = 0 ] || kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.3
    done
}
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of commands, and how to run it."""

    line: int
    text: str
    kind: str
    name: str
    until: str


def blocks() -> list[Block]:
    found = []
    for match in BLOCK.finditer(README):
        how = DIRECTIVE.fullmatch(match["how"] or "retry") or pytest.fail(match["how"])
        kind = how["kind"] if match["how"] else "plain"
        line = README.count("\n", 0, match.start("text")) + 1
        found.append(
            Block(line, match["text"], kind, how["name"] or how["word"] or "", how["until"] or "")
        )
    return found


def script(folder: Path) -> str:
    """Return one bash script that runs all blocks in order."""
    lines = [PRELUDE]
    for block in blocks():
        file, log = folder / f"{block.line:03}.sh", f'"$LOGS/{block.line:03}.log"'
        file.write_text(block.text)
        run = f"bash -euo pipefail {file} </dev/null >>{log} 2>&1"
        at = f"README.md line {block.line}"
        lines.append(f"echo '--- {at} ({block.kind})'")
        match block.kind:
            case "skip":
                continue
            case "background":
                lines += [f"{run} &", "jobs_started+=($!)"]
                if block.name:
                    lines.append(f"{block.name}=$!")
                if block.until:
                    probe = f"bash -c {block.until!r}"
                    lines.append(f"poll 60 $! {probe} >/dev/null || fail '{at}: never ready'")
            case "after":
                lines.append(f"wait ${block.name} || fail '{at}: the block before ended badly'")
                lines.append(f"{run} || fail '{at}'")
            case "retry":
                again = f"try_{block.line}() {{ {run}; }}"
                lines += [again, f"poll 60 0 try_{block.line} || fail '{at}'"]
            case "needs":
                lines.append(
                    f"if command -v {block.name} >/dev/null; then {run} || fail '{at}'; "
                    f"else echo '{at} NOT RUN: {block.name} is not installed'; fi"
                )
            case _:
                lines.append(f"{run} || fail '{at}'")
    lines.append("echo ALL RUN")
    return "\n".join(lines)


def isolated() -> list[str]:
    """Return the command prefix for a network of our own, or skip where there is none to be had."""
    for options in (["-n"], ["-rn"]) if shutil.which("unshare") else ():
        prefix = ["unshare", *options, sys.executable, "-c", LOOPBACK_UP]
        # In a container a network can be made whose loopback nobody may bring up.
        if not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            return prefix
    for port in (8883, 8600, 8700, 8800):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port} is taken here and no network namespace can be made")
    return []


def test_only_make_is_exempt() -> None:
    skipped = [block for block in blocks() if block.kind == "skip"]
    assert all(block.text.startswith("make ") for block in skipped)
    assert len(blocks()) >= 8


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S + 40)
def test_every_command_runs_as_it_stands(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        absent("the README's commands: curl is not installed")
    checkout, logs, files = (tmp_path / name for name in ("checkout", "logs", "blocks"))
    for folder in (checkout, logs, files):
        folder.mkdir()
    (checkout / "examples").symlink_to(ROOT / "examples")
    (checkout / ".venv").symlink_to(sys.prefix)
    program = files / "all.sh"
    program.write_text(script(files))
    environment = {**os.environ, "CHECKOUT": str(checkout), "LOGS": str(logs)}
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            [*isolated(), "bash", str(program)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # its trap ends the blocks
            code = process.wait(30)
        output.seek(0)
        text = output.read()
    assert code == 0, text
    assert "ALL RUN" in text
    assert "Traceback" not in text, text
