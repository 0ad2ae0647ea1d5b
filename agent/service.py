"""Builds the agent from its configuration, runs it, ends it. No decisions here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, TypeVar

from wire.errors import BundleError, ConfigError, StorageError
from wire.lifecycle import Code
from wire.link import Connected, Delivered, Disconnected, LinkEvent, Published
from wire.link_paho import PahoLink
from wire.manifest import Manifest
from wire.topics import Chunk, parse

from .adapters import capture_ring
from .adapters.bootstrap import read_bootstrap
from .adapters.capture_ring import Bounds, CaptureRing
from .adapters.capture_upload import PackUpload
from .adapters.child import ProcessRuntimeHost
from .adapters.content_files import ContentStore, has_bundles
from .adapters.database import move_aside
from .adapters.fetcher import Fetcher
from .adapters.host import Host, architecture
from .adapters.identity import Identity
from .adapters.metadata_pull import MetadataPulls
from .adapters.outbox import Outbox
from .adapters.sdnotify import Notifier, inherited_sockets
from .adapters.second_source import SecondSource
from .adapters.starts import FailedStarts, StartCounter
from .adapters.state_sqlite import SqliteStateStore
from .adapters.trust import TRUST, TrustStore
from .capture import Capture, LeftOut
from .config import AgentConfig
from .core.backoff import connect_delay_s
from .core.ring import Ring
from .core.states import DeviceState
from .effects import Effects
from .loop import CaptureNews, Inbox, Loop, Noticed, StopRequested
from .membership import by_hand, enter
from .ports import RowsCaptured, RuntimeEvent, RuntimeSettings
from .renewal import Renewal
from .runtimes import Runtimes
from .telemetry import TelemetryReporter
from .trust import Trust
from .uplink import Uplink

log = logging.getLogger(__name__)

VERSION = version("modelfleet")
Opened = TypeVar("Opened", SqliteStateStore, Outbox)


def run_agent(config: AgentConfig) -> str | None:
    """Run the agent until it is told to end; return the error that ended it, if any.

    Raises:
        ConfigError: The address is taken, another agent uses the state directory, the device has not
            enrolled, or there is no root of trust.
        PeerError, TransferError: It cannot enrol.
        StorageError: The state directory cannot be written.
    """
    inbox = Inbox()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: inbox.put(StopRequested()))
    # Where a person set the device up, nothing that follows would bring a root of trust.
    if config.broker is not None:
        _require_root(config)
    with locked(config.state.dir):
        enter(config, lambda code, detail: inbox.put(Noticed(code, detail)))
        _require_root(config)
        capture = _open_capture(config, inbox)
        host = ProcessRuntimeHost(_runtime_settings(config), _sink(inbox, capture))
        host.open()
        try:
            return _run(config, inbox, host, capture)
        finally:
            host.stop()
            if capture is not None:
                capture.stop()


def _open_capture(config: AgentConfig, inbox: Inbox) -> Capture | None:
    """Return what keeps captured rows; where capture is off, nothing, and no row that was kept before.

    A disk that does not let it costs the rows, never the serving.
    """
    path, rules = config.state.dir / capture_ring.NAME, config.capture
    try:
        if rules is None:
            capture_ring.delete(path)
            return None
        bounds = Bounds(rules.max_mb * 2**20, rules.max_rows, int(rules.max_age_days * 86_400_000))
        ring = CaptureRing(path, bounds)
    except StorageError as exc:
        log.warning("%s; %s: nothing is captured until the next start", exc, exc.hint)
        return None
    if ring.was_damaged:
        log.error("%s could not be read; the rows that were captured are lost", path)
    upload = PackUpload(Identity(config.state.dir)) if config.broker is None else None
    capture = Capture(
        ring,
        rules.rules,
        upload.send if upload is not None else None,
        lambda facts: inbox.put(CaptureNews(facts)),
    )
    log.info(
        "capture is on: %g of all rows and those below %g are kept in %s",
        rules.sample,
        rules.uncertain_below,
        path,
    )
    if upload is None:
        log.warning("captured rows stay here: a device with [broker] in its file cannot give them")
    capture.start()
    return capture


def _sink(inbox: Inbox, capture: Capture | None) -> Callable[[RuntimeEvent], None]:
    """Return what takes the news of runtimes: captured rows go past the loop."""

    def sink(event: RuntimeEvent) -> None:
        if not isinstance(event, RowsCaptured):
            inbox.put(event)
        elif capture is not None:
            capture.put(event)

    return sink


def _require_root(config: AgentConfig) -> None:
    """See that the device has a root of trust, or models to serve: without one, installs wait.

    Raises:
        ConfigError: As `read_bootstrap`, of a device with nothing to serve.
    """
    try:
        read_bootstrap(config)
    except ConfigError:
        if not has_bundles(config.state.dir):
            raise


def _run(
    config: AgentConfig,
    inbox: Inbox,
    host: ProcessRuntimeHost,
    capture: Capture | None,
) -> str | None:
    root, device, boot = config.state.dir, config.device.id, secrets.token_hex(8)
    counter = StartCounter(root)
    wait_s, notifier = _count_start(counter), Notifier(os.environ)
    content = ContentStore(root, config.state.max_bytes)
    store, lost = _open_state(root / "state.db")
    outbox, lost_records = _open_outbox(root / "outbox.db", boot, config.telemetry.max_bytes)
    link, renewal = _make_link(config, inbox, wait_s)
    uplink = Uplink(link, outbox, device=device, boot=boot, agent=f"modelfleet {VERSION}")
    trusted = TrustStore(root / TRUST, lambda: read_bootstrap(config), store, device=device)
    second_source = _second_source(config)
    pulls = MetadataPulls(second_source, inbox.put)
    trust = Trust(trusted, store, link, device=device, alarm=uplink.alarm, pull=pulls.ask)
    fetcher = Fetcher(
        content,
        link,
        tell=inbox.put,
        ask_again=uplink.ask_chunks,
        check=_check_fits,
        authorise=trust.authorise,
        second_source=second_source,
    )
    runtimes = Runtimes(
        host,
        content,
        is_replacing=config.serve.swap == "replace",
        loaded=LeftOut(config.capture.rules, uplink.alarm).look if config.capture else None,
        beat=notifier.working,
    )
    telemetry = TelemetryReporter(
        device=device,
        interval_s=config.telemetry.interval_s,
        window_s=config.telemetry.window_s,
        host=Host(root),
        runtimes=runtimes,
        uplink=uplink,
        starts=counter,
    )
    loop = Loop(
        device=device,
        inbox=inbox,
        store=store,
        effects=Effects(
            device=device,
            content=content,
            fetcher=fetcher,
            runtimes=runtimes,
            uplink=uplink,
            beat=notifier.working,
        ),
        runtimes=runtimes,
        fetcher=fetcher,
        uplink=uplink,
        trust=trust,
        telemetry=telemetry,
        notifier=notifier,
        is_link_alive=link.is_alive,
        capture=capture,
    )

    def on_link(event: LinkEvent) -> None:
        if renewal is not None:
            renewal.on_link(event)
        match event:
            case Delivered(topic=topic, payload=payload):
                if isinstance(chunk := parse(topic), Chunk):
                    fetcher.on_chunk(chunk.digest, payload)
                else:
                    inbox.put(event)
            case Connected() | Disconnected():
                inbox.put(event)
            case Published():
                pass  # records wait for the controller's acknowledgement, not for the broker's

    for loss in (lost, lost_records):
        if loss is not None:
            uplink.alarm(Code.STATE_LOST, loss)
    log.info("device %s, agent %s, state in %s", device, VERSION, root)
    fetcher.start()
    if renewal is not None:
        renewal.start()
    link.start(on_link, uplink.will)
    FailedStarts(os.environ).forget()
    try:
        error = loop.run()
        if error is None:
            counter.ended()
        return error
    finally:
        if renewal is not None:
            renewal.stop()
        fetcher.stop()
        pulls.stop()
        link.stop()
        outbox.close()
        store.close()


def _make_link(config: AgentConfig, inbox: Inbox, wait_s: float) -> tuple[PahoLink, Renewal | None]:
    """Return the way to the broker, and what keeps an enrolled device's identity."""
    device = config.device.id
    if config.broker is not None:
        broker = by_hand(config.broker)
        return PahoLink(broker.url, device, tls=broker.tls, first_wait_s=wait_s), None
    renewal = Renewal(
        Identity(config.state.dir),
        lambda: link.reconnect(),  # noqa: PLW0108 - made below
        lambda code, detail: inbox.put(Noticed(code, detail)),
        device=device,
        enroll=config.enroll,
        named_root=config.trust.root,
    )
    link = PahoLink(renewal.endpoint, device, first_wait_s=wait_s)
    return link, renewal


def _second_source(config: AgentConfig) -> Callable[[], SecondSource] | None:
    """Return what makes ways to the controller's own listener; a device set up by hand has none."""
    if config.broker is not None:
        return None
    return lambda: SecondSource(Identity(config.state.dir))


def _count_start(counter: StartCounter) -> float:
    """Count this start; return how long to serve before the broker is connected to, in seconds."""
    starts = counter.begin()
    wait_s = connect_delay_s(starts.in_a_row)
    if starts.in_a_row:
        log.warning(
            "the last run ended without being stopped (%d in a row, %d ever)%s",
            starts.in_a_row,
            starts.restart_count,
            f"; connecting to the broker in {wait_s:g} s" if wait_s else "",
        )
    return wait_s


def _runtime_settings(config: AgentConfig) -> RuntimeSettings:
    serve = config.serve
    return RuntimeSettings(
        listen=serve.address,
        socket=serve.socket,
        swap=serve.swap,
        start_timeout_s=serve.start_timeout_s,
        drain_s=serve.drain_s,
        request_deadline_s=serve.request_deadline_s,
        ring=Ring(config.feedback.max_rows, config.feedback.max_bytes),
        inherited=inherited_sockets(os.environ),
        capture=config.capture.rules if config.capture is not None else None,
    )


def _check_fits(manifest: Manifest) -> None:
    """Check that a bundle is made for this device.

    Raises:
        BundleError: `incompatible`.
    """
    if manifest.device_class not in ("any", architecture()):
        raise BundleError(
            f"made for {manifest.device_class}, this device is {architecture()}",
            code=Code.INCOMPATIBLE,
        )
    installed = version("onnxruntime")
    if _numbers(installed) < _numbers(manifest.minimum_runtime):
        raise BundleError(
            f"needs onnxruntime {manifest.minimum_runtime} or later, this device has {installed}",
            code=Code.INCOMPATIBLE,
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in text.split(".")[:3])


def _open_state(path: Path) -> tuple[SqliteStateStore, str | None]:
    """Open the state; return it, and what was lost.

    An unreadable one is moved aside, and the agent goes on from its last settled state. One that is
    blank though bundles were brought here for it is lost too. One on a disk that is full or
    read-only is read as well as it can be where there are bundles to serve.
    """
    can_wait = has_bundles(path.parent)

    def attempt() -> SqliteStateStore:
        store = SqliteStateStore(path, can_wait=can_wait)
        try:
            state = store.load()
        except StorageError:
            store.close()
            raise
        with contextlib.suppress(StorageError):  # on a full disk; each save tries it again
            store.settle(state)
        return store

    try:
        store = _patiently(attempt)
    except StorageError as exc:
        if exc.code != "state_unreadable" or not path.exists():
            raise
        aside = move_aside(path)
        store = SqliteStateStore(path)
        state = store.restore()
        since = "empty" if state is None else f"as of generation {state.generation}"
        log.error("%s; moved to %s, starting %s", exc, aside.name, since)  # noqa: TRY400 - cause in the message
        return store, f"{exc}; moved to {aside.name}, started {since}"
    # A bundle is sealed only after the state that wants it is on disk.
    if store.load() == DeviceState() and can_wait:
        lost = f"{path} and its copy are gone, and bundles are there; started empty"
        log.error("%s", lost)
        return store, lost
    return store, None


def _open_outbox(path: Path, boot: str, max_bytes: int) -> tuple[Outbox, str | None]:
    """Open the outbox; return it, and what was lost.

    An unreadable one is moved aside; those of its records that are sound go on in the new one.
    """
    can_wait = has_bundles(path.parent)
    try:
        return _patiently(lambda: Outbox(path, boot, max_bytes=max_bytes, can_wait=can_wait)), None
    except StorageError as exc:
        if exc.code != "state_unreadable" or not path.exists():
            raise
        aside = move_aside(path)
        outbox = Outbox(path, boot, max_bytes=max_bytes)
        count = outbox.adopt(aside)
        log.error("%s; moved to %s, %d records saved", exc, aside.name, count)  # noqa: TRY400 - cause in the message
        return outbox, f"{exc}; moved to {aside.name}, {count} records saved"


def _patiently(attempt: Callable[[], Opened]) -> Opened:
    """Return what opening a file gives; what it finds unreadable it must find so twice.

    A disk that once fails to read makes a sound database look damaged.
    """
    try:
        return attempt()
    except StorageError as exc:
        if exc.code != "state_unreadable":
            raise
    return attempt()


def locked(root: Path) -> BinaryIO:
    """Return the held lock of the state directory; it ends with the process.

    Raises:
        ConfigError: `state_in_use`.
        StorageError: `state_unwritable`.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _open_lock(root / "lock")
    except OSError as exc:
        raise StorageError(
            f"cannot write {root}: {exc.strerror}",
            code="state_unwritable",
            hint="set [state] dir to a directory that this user may write",
        ) from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise ConfigError(
            f"another agent already uses {root}",
            code="state_in_use",
            hint="each agent on a host needs its own [state] dir and [serve] listen",
        ) from exc
    return file


def _open_lock(path: Path) -> BinaryIO:
    """Return the file, made if need be; on a read-only disk as it can be read, which can be locked too.

    Raises:
        OSError: There is none and none can be made, or it is somebody else's.
    """
    try:
        return path.open("wb")
    except OSError as exc:
        if exc.errno != errno.EROFS or not path.exists():
            raise
        return path.open("rb")
