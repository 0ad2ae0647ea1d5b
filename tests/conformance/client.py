"""The client contract of theupdateframework/tuf-conformance over the device's own trust store.

    --metadata-dir D [--metadata-url U] init ROOT | refresh
    --metadata-dir D --metadata-url U --target-name N --target-dir T --target-base-url B download

Exit code 0, or 1 with the error on standard error.
"""

import argparse
import sys
import time
from pathlib import Path
from urllib.parse import quote

from agent.adapters.durable import write_durably
from agent.adapters.state_sqlite import SqliteStateStore
from agent.adapters.trust import TrustStore
from tests.conformance.http_source import HttpSource
from wire.errors import ModelfleetError, PeerError

OWN = "device"
"""What is not trusted metadata, in a folder of its own: the suite looks at the files beside it."""
BOOTSTRAP = "bootstrap.json"
"""The root that was given."""
MARKS = "marks.db"
MAX_BYTES = 512_000
"""Repositories of others have no MQTT to fit into."""


def main():
    arguments = parse()
    try:
        command = {"init": init, "refresh": refresh, "download": download}[arguments.command]
        command(arguments)
    except (ModelfleetError, OSError) as exc:
        code = getattr(exc, "code", "os_error")
        sys.stderr.write(f"{arguments.command}: {exc} ({code})\n")
        return 1
    return 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args()


def init(arguments):
    data = arguments.trusted_root.read_bytes()
    (arguments.metadata_dir / OWN).mkdir(exist_ok=True)
    write_durably(arguments.metadata_dir / OWN / BOOTSTRAP, data)
    write_durably(arguments.metadata_dir / "root.json", data)


def refresh(arguments, paths=()):
    directory = arguments.metadata_dir
    store = SqliteStateStore(directory / OWN / MARKS)
    try:
        bootstrap = (directory / OWN / BOOTSTRAP).read_bytes()
        trust = TrustStore(directory, lambda: bootstrap, store, device="none", max_bytes=MAX_BYTES)
        source = HttpSource(arguments.metadata_url)
        return trust.run(source, paths, now_unix_ms=time.time_ns() // 1_000_000)
    finally:
        store.close()


def download(arguments):
    name = arguments.target_name
    run = refresh(arguments, [name])
    if (fault := run.faults.get(name)) is not None:
        raise PeerError(fault.detail, code=fault.code)
    target = run.found[name]
    if target is None:
        raise PeerError(f"{name} is not among the targets", code="not_signed")
    path = arguments.target_dir / quote(name, "")
    if path.exists() and is_sound(target, path.read_bytes()):
        return
    folder, separator, file = name.rpartition("/")
    if run.root.signed.consistent_snapshot:
        file = f"{next(iter(target.hashes.values()))}.{file}"
    data = b""
    for piece in HttpSource(arguments.target_base_url)(quote(f"{folder}{separator}{file}")):
        data += piece
        if len(data) > target.length:
            raise PeerError(f"{name} is longer than was signed", code="trust_too_large")
    if not is_sound(target, data):
        raise PeerError(f"{name} is not what was signed", code="trust_mismatch")
    write_durably(path, data)


def is_sound(target, data):
    from tuf.api.exceptions import LengthOrHashMismatchError

    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
