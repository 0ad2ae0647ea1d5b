"""One incarnation: confined first, then numpy and onnxruntime, then the models, then the sockets.

Started by exec with a control channel and the listening sockets; obeys the channel alone. Its
end, or the supervisor's, ends the process.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path


def main() -> int:
    """Run until the control channel says so; return the exit code."""
    options = _parse(sys.argv[1:])
    # The service manager signals the whole group; only the supervisor decides about this process.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread less, 41 MB less address space

    from .confine import confine, die_with_parent, step_aside

    die_with_parent(options.parent)
    if options.aside:
        step_aside()
    protections = confine(options.readable, is_aside=options.aside)

    # The heavy imports begin here, inside the walls.
    from .incarnation import run

    channel = socket.socket(fileno=options.control)
    listeners = [socket.socket(fileno=descriptor) for descriptor in options.listen]
    try:
        return run(channel, listeners, protections)
    except BrokenPipeError:  # the supervisor has just ended, and takes this process along
        return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m agent.runtime")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--listen", type=int, action="append", default=[])
    parser.add_argument("--readable", type=Path, action="append", default=[])
    parser.add_argument("--aside", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
