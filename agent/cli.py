"""The command `fleet-agent`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from wire.errors import ModelfleetError

DEFAULT_CONFIG = Path("/etc/modelfleet/agent.toml")
ENROLL_PATIENCE_S = 60.0
"""A running agent that asks its controller for a new certificate is done by then."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 error, 2 usage."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        return _COMMANDS[options.command](options)
    except ModelfleetError as exc:
        sys.stderr.write(f"fleet-agent: {exc}\n")
        if exc.hint:
            sys.stderr.write(f"  {exc.hint}\n")
        if options.command == "run":
            _hold_back(exc)
        return 1


def _parser() -> argparse.ArgumentParser:
    from .service import VERSION

    parser = argparse.ArgumentParser(
        prog="fleet-agent", description="Serves models on this device and keeps them up to date."
    )
    parser.add_argument("--version", action="version", version=f"fleet-agent {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "run the agent in the foreground"),
        ("enroll", "exchange a join token for this device's key and certificate"),
        ("check-config", "check the configuration and print what is in force"),
        ("status", "show what the agent serves and how its last update ended"),
        ("doctor", "examine the device: what works, what does not, and what to do about it"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}"
        )
        command.add_argument("--verbose", action="store_true", help="log details")
        if name == "enroll":
            command.add_argument("--url", required=True, help="https://HOST:PORT of the controller")
            command.add_argument("--token", required=True, help="as `fleet device token` prints it")
        if name in ("status", "doctor"):
            command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    from .config import load_config
    from .membership import require_certificates
    from .service import run_agent

    config = load_config(options.config)
    require_certificates(config, options.config)
    error = run_agent(config)
    if error is not None:
        sys.stderr.write(f"fleet-agent: {error}\n")
        return 1
    return 0


def _hold_back(exc: ModelfleetError) -> None:
    """Wait before a start ends that failed, if systemd would repeat it at once time and again.

    The error is in the journal by then, and in `systemctl status` meanwhile. SIGTERM ends the wait,
    and with it the process: `systemctl stop` and `restart` wait for nothing.
    """
    from .adapters.sdnotify import Notifier
    from .adapters.starts import FailedStarts
    from .core.backoff import failed_start_delay_s

    in_a_row = FailedStarts(os.environ).count()
    wait_s = failed_start_delay_s(in_a_row)
    if not wait_s:
        return
    words = f"{in_a_row} starts in a row have failed; the next in {wait_s:g} s"
    sys.stderr.write(f"fleet-agent: {words}\n")
    Notifier(os.environ).status(f"{exc}; {words}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    time.sleep(wait_s)


def _enroll(options: argparse.Namespace) -> int:
    from .adapters.door import enrol
    from .adapters.identity import Identity
    from .config import load_config

    config = load_config(options.config)
    _act_as_owner(config.state.dir)
    identity = Identity(config.state.dir)
    with identity.held(ENROLL_PATIENCE_S):
        enrol(identity, config.device.id, options.url, options.token, named_root=config.trust.root)
    sys.stdout.write(
        f"enrolled as {config.device.id}; identity in {identity.folder}; "
        "an agent that runs connects with it by itself\n"
    )
    return 0


def _act_as_owner(state_dir: Path) -> None:
    """Give up root's rights for those of the agent's user, who must read what is written there."""
    with contextlib.suppress(FileNotFoundError):
        owner = state_dir.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)


def _check_config(options: argparse.Namespace) -> int:
    from .config import check_certificates, load_config

    config = load_config(options.config)
    check_certificates(config, options.config)
    sys.stdout.write(config.model_dump_json(indent=2) + "\n")
    return 0


def _status(options: argparse.Namespace) -> int:
    from .config import load_config
    from .status import read_status

    status = read_status(load_config(options.config))
    sys.stdout.write(status.to_json() if options.json else status.to_text())
    return 0 if status.is_serving else 1


def _doctor(options: argparse.Namespace) -> int:
    from .core.diagnosis import Verdict
    from .doctor import examine, render, render_json

    findings = list(examine(options.config))
    sys.stdout.write(render_json(findings) if options.json else render(findings))
    return 1 if any(found.verdict is Verdict.FAULT for found in findings) else 0


_COMMANDS = {
    "run": _run,
    "enroll": _enroll,
    "check-config": _check_config,
    "status": _status,
    "doctor": _doctor,
}
