"""`fleet-agent doctor`: examines this device from outside the agent, whether it runs or not.

It changes nothing: it reads the state, asks the runtime over HTTP, the broker over MQTT and the controller over
HTTPS, and hashes the bundles on disk. To the broker it goes under a client id of its own; one that takes the certificate's
name for the client id, as mosquitto does, ends the agent's connection for it, which is back within a second.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from wire import codec, topics
from wire.endpoint import Endpoint, parse_broker_url
from wire.errors import ConfigError, ModelfleetError, PeerError, StorageError
from wire.link import Connected, Delivered, Disconnected, LinkEvent
from wire.link_paho import PahoLink
from wire.mailbox import Mailbox
from wire.messages import ControllerPresence, Inventory, Reported

from .adapters.bootstrap import is_root_on_trust, read_bootstrap
from .adapters.content_files import find_damage
from .adapters.identity import ON_TRUST, PIN_IT, Identity
from .adapters.second_source import SecondSource
from .adapters.starts import read_starts
from .adapters.state_sqlite import SqliteStateStore
from .adapters.trust import TRUST
from .adapters.trust_peek import peek
from .config import AgentConfig, check_certificates, load_config
from .core.diagnosis import (
    Finding,
    Verdict,
    judge_clock,
    judge_disk,
    judge_models,
    judge_protections,
    judge_quarantine,
    judge_records,
    judge_restarts,
    judge_trust,
)
from .core.leave_out import REMEDY, unmatched
from .core.states import DeviceState
from .membership import membership
from .status import ask_runtime, capture_words, count_records, served_inputs

BROKER_TIMEOUT_S: Final = 5.0
OF_OTHERS: Final = (f"{topics.ROOT}/device/+/presence", f"{topics.ROOT}/device/+/desired")
CONFINE: Final = (
    "`fleet broker config` prints how the broker is to confine each device to its own topics"
)
HEARD_TIMEOUT_S: Final = 2.0
"""The broker passes on within milliseconds what a device may write, and the controller takes in what
comes at least once a second."""
HEARD_POLL_S: Final = 0.2
RETAINED_TIMEOUT_S: Final = 1.0
"""Retained messages come right after the subscription; longer than this, there are none."""


def examine(path: Path) -> Iterator[Finding]:
    """Return findings, most fundamental first; what depends on a fault is left out."""
    try:
        config = load_config(path)
    except ConfigError as exc:
        yield Finding("configuration", Verdict.FAULT, str(exc), exc.hint)
        return
    try:
        check_certificates(config, path)
    except ConfigError as exc:
        yield Finding("configuration", Verdict.FAULT, str(exc), exc.hint)
    else:
        yield Finding("configuration", Verdict.OK, str(path))
    yield _find_agent(config)
    starts = read_starts(config.state.dir)
    yield judge_restarts(starts.restart_count, starts.in_a_row)
    state, inventory, found = _read_state(config)
    yield found
    if state is not None:
        yield from _examine_models(config, state, inventory)
    yield _judge_capture(config, state)
    try:
        read_bootstrap(config)
    except ConfigError as exc:
        yield Finding("root of trust", Verdict.FAULT, f"{exc}; nothing new is installed", exc.hint)
    if is_root_on_trust(config):
        yield Finding("root of trust", Verdict.WARNING, ON_TRUST, PIN_IT)
    try:
        member = membership(config)
    except (ConfigError, StorageError) as exc:
        yield Finding("identity", Verdict.FAULT, str(exc), exc.hint)
        return
    if member.identity is not None:
        yield _judge_identity(member.identity)
    broker = _ask_broker(config.device.id, member.endpoint)
    yield from _judge_broker(member.endpoint.url, broker, state.generation if state else None)
    yield from _ask_controller(member.identity, broker)
    if state is not None:
        waiting = count_records(config.state.dir / "outbox.db")
        yield judge_records(waiting, is_controller_online=broker.is_controller_online)


def render(findings: list[Finding]) -> str:
    """Return findings for a person, one screen."""
    width = max(len(found.subject) for found in findings)
    lines = []
    for found in findings:
        lines.append(f"{found.verdict:<8} {found.subject:<{width}}  {found.text}")
        if found.remedy and found.verdict is not Verdict.OK:
            lines.append(f"{'':<8} {'':<{width}}  -> {found.remedy}")
    counted = [(sum(f.verdict is v for f in findings), v) for v in (Verdict.FAULT, Verdict.WARNING)]
    words = [f"{count} {v}{'s' if count > 1 else ''}" for count, v in counted if count]
    lines.append(", ".join(words) or "all is well")
    return "\n".join(lines) + "\n"


def render_json(findings: list[Finding]) -> str:
    """Return findings as JSON."""
    return (
        json.dumps(
            [
                {"subject": f.subject, "verdict": f.verdict, "text": f.text, "remedy": f.remedy}
                for f in findings
            ],
            indent=2,
        )
        + "\n"
    )


def _find_agent(config: AgentConfig) -> Finding:
    """Return whether an agent holds the lock of the state directory."""
    lock = config.state.dir / "lock"
    start = "start it: `systemctl start fleet-agent`, or `fleet-agent run --config FILE`"
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        text = f"has never run with its state in {config.state.dir}"
        return Finding("agent", Verdict.FAULT, text, start)
    except BlockingIOError:
        return Finding("agent", Verdict.OK, f"{version('modelfleet')}, running")
    except OSError as exc:
        return Finding("agent", Verdict.FAULT, f"{lock}: {exc.strerror}", "run this as root")
    return Finding("agent", Verdict.FAULT, "does not run", start)


def _read_state(config: AgentConfig) -> tuple[DeviceState | None, Inventory, Finding]:
    path = config.state.dir / "state.db"
    if not path.exists():
        found = Finding("state", Verdict.OK, f"{config.state.dir}: empty")
        return None, Inventory(), found
    try:
        store = SqliteStateStore(path, can_wait=True)
        try:
            state, inventory, fault = store.load(), store.load_inventory(), store.fault
        finally:
            store.close()
    except StorageError as exc:
        remedy = exc.hint or "run this as root; an agent that starts moves an unreadable file aside"
        return None, Inventory(), Finding("state", Verdict.FAULT, str(exc), remedy)
    if fault is not None:
        text = f"{fault}; generation {state.generation} is served, nothing new is kept"
        return state, inventory, Finding("state", Verdict.FAULT, text, fault.hint)
    text = f"{config.state.dir}, generation {state.generation}"
    return state, inventory, Finding("state", Verdict.OK, text)


def _judge_capture(config: AgentConfig, state: DeviceState | None) -> Finding:
    served = served_inputs(config, state) if state is not None else {}
    leave_out = config.capture.leave_out if config.capture is not None else ()
    is_odd = any(inputs is not None and unmatched(leave_out, inputs) for inputs in served.values())
    verdict = Verdict.WARNING if is_odd else Verdict.OK
    return Finding("capture", verdict, capture_words(config, served), REMEDY)


def _examine_models(
    config: AgentConfig, state: DeviceState, inventory: Inventory
) -> Iterator[Finding]:
    root = config.state.dir
    answering: dict[str, str] = {}
    for where in (config.serve.address, config.serve.socket):
        if where is None:
            continue
        try:
            answering |= ask_runtime(where, [name for name, _ in state.served_set()])
        except OSError as exc:
            yield Finding(
                "runtime",
                Verdict.FAULT,
                f"does not answer on {_words(where)}: {exc.strerror or exc}",
                "if the agent runs, its log says why no runtime serves",
            )
        else:
            yield Finding("runtime", Verdict.OK, f"answers on {_words(where)}")
    yield from judge_models(state, answering)
    if (found := judge_quarantine(state)) is not None:
        yield found
    yield judge_trust(state, peek(root / TRUST), time.time_ns() // 1_000_000)
    yield _check_content(root, state)
    yield judge_protections(inventory.protections)
    yield judge_disk(shutil.disk_usage(root).free, str(root))
    yield judge_clock(time.time(), (root / "state.db").stat().st_mtime)


def _words(where: tuple[str, int] | Path) -> str:
    return str(where) if isinstance(where, Path) else f"{where[0]}:{where[1]}"


def _check_content(root: Path, state: DeviceState) -> Finding:
    """Hash every file of every bundle that is active or a fallback."""
    refs = [ref for record in state.models for ref in (record.active, record.fallback) if ref]
    for ref in refs:
        if (damage := find_damage(root, ref.manifest)) is not None:
            remedy = "restart the agent: it serves the fallback and fetches the bundle again"
            return Finding("content", Verdict.FAULT, f"{ref.version}: {damage}", remedy)
    if not refs:
        return Finding("content", Verdict.OK, "none yet")
    count = "1 bundle" if len(refs) == 1 else f"{len(refs)} bundles"
    return Finding("content", Verdict.OK, f"{count}, every byte as it was fetched")


@dataclass
class _Broker:
    """What the broker says about this device, as far as it answers."""

    nobody: str = ""
    """A device that is none, in whose name was written."""
    fault: str | None = None
    is_controller_online: bool | None = None
    reported: Reported | None = None
    foreign: set[str] = field(default_factory=set)
    """Topics of other devices that it let us hear."""


def _judge_identity(identity: Identity) -> Finding:
    span = identity.span()
    left_days = (span.not_after_unix_ms - time.time_ns() // 1_000_000) / 86_400_000
    if left_days < 0:
        text = f"the certificate expired {-left_days:.1f} days ago"
        renews = "the agent renews it by itself, as soon as it reaches the controller"
        return Finding("identity", Verdict.WARNING, text, renews)
    text = f"enrolled; certificate for {left_days:.1f} more days"
    if not identity.has_copy:
        remedy = "an agent that starts writes it anew"
        return Finding("identity", Verdict.WARNING, f"{text}; no second copy of it", remedy)
    return Finding("identity", Verdict.OK, text)


def _ask_broker(device: str, endpoint: Endpoint) -> _Broker:
    url = endpoint.url
    link = PahoLink(url, f"{device}-doctor", tls=endpoint.tls)
    events: Mailbox[LinkEvent] = Mailbox()
    link.start(events.put, lambda: None)
    try:
        match events.get(BROKER_TIMEOUT_S):
            case Connected():
                # What must not be heard is asked for first: had it been granted, it would come first.
                nobody = f"doctor-{secrets.token_hex(4)}"
                topic = topics.Reported(nobody).text
                link.subscribe([topic, *OF_OTHERS], qos=1)
                said = Reported(boot=secrets.token_hex(8), seq=1, generation=0)
                link.publish(topic, codec.encode(said), qos=1, retain=False)
                wanted = [topics.ControllerPresence().text, topics.Reported(device).text]
                link.subscribe(wanted, qos=1)
                return _listen(events, _Broker(nobody), device, len(wanted))
            case Disconnected(reason=reason):
                return _Broker(fault=reason)
            case _:
                return _Broker(fault=f"{url} does not answer within {BROKER_TIMEOUT_S:g} s")
    finally:
        link.stop()


def _ask_controller(identity: Identity | None, broker: _Broker) -> Iterator[Finding]:
    """Ask the controller for the newest timestamp, as an update would, and for what it heard of us."""
    subject = "second source"
    if identity is None:
        yield Finding(subject, Verdict.OK, "none: set up by hand, it has the broker alone")
        return
    source = SecondSource(identity)
    try:
        source.document("timestamp.json")
        yield Finding(subject, Verdict.OK, f"{identity.place().door_url} answers")
        subject = "writing"
        if broker.is_controller_online is True:
            yield _judge_writing(source, broker.nobody)
    except ModelfleetError as exc:
        remedy = exc.hint or "updates come by the broker alone meanwhile"
        yield Finding(subject, Verdict.WARNING, str(exc), remedy)
    finally:
        source.close()


def _judge_writing(source: SecondSource, nobody: str) -> Finding:
    """Return whether what was written in the name of a device that is none has come to the controller."""
    until_s = time.monotonic() + HEARD_TIMEOUT_S
    while not source.is_heard(nobody):
        if time.monotonic() > until_s:
            text = "what it writes in another's name does not get through"
            return Finding("writing", Verdict.OK, text)
        time.sleep(HEARD_POLL_S)
    text = f"the controller heard what this device wrote in the name of {nobody}"
    return Finding("writing", Verdict.FAULT, text, CONFINE)


def _listen(events: Mailbox[LinkEvent], seen: _Broker, device: str, wanted_count: int) -> _Broker:
    """Take the retained messages; a missing one is waited for in vain, but not for long."""
    until_s = time.monotonic() + RETAINED_TIMEOUT_S
    while wanted_count and (event := events.get(until_s - time.monotonic())) is not None:
        if not isinstance(event, Delivered):
            continue
        topic = topics.parse(event.topic)
        if getattr(topic, "device", device) != device:
            seen.foreign.add(event.topic)
            continue
        if not isinstance(topic, topics.ControllerPresence | topics.Reported):
            continue
        wanted_count -= 1
        try:
            match topic:
                case topics.ControllerPresence():
                    presence = codec.decode(ControllerPresence, event.payload)
                    seen.is_controller_online = presence.state == "online"
                case topics.Reported():
                    seen.reported = codec.decode(Reported, event.payload)
        except PeerError:
            continue
    return seen


def _judge_broker(url: str, broker: _Broker, generation: int | None) -> Iterator[Finding]:
    if broker.fault is not None:
        yield Finding(
            "broker",
            Verdict.FAULT,
            broker.fault,
            f"is it up, and is [broker] url = {url!r} right? Until then this device serves what "
            "it has and keeps its records",
        )
        return
    yield Finding("broker", Verdict.OK, f"{url} answers")
    if broker.foreign:
        yield Finding(
            "confinement",
            Verdict.FAULT if parse_broker_url(url).is_encrypted else Verdict.WARNING,
            f"this device hears what is of others: {', '.join(sorted(broker.foreign)[:3])}",
            CONFINE,
        )
    else:
        yield Finding("confinement", Verdict.OK, "heard nothing that is of another device")
    if broker.is_controller_online is True:
        yield Finding("controller", Verdict.OK, "online")
    else:
        word = "was never here" if broker.is_controller_online is None else "is offline"
        remedy = "start it with `fleet up`; until then updates and records wait"
        yield Finding("controller", Verdict.WARNING, word, remedy)
    reported = broker.reported
    if generation is not None and reported is not None and reported.generation != generation:
        yield Finding(
            "reported",
            Verdict.WARNING,
            f"the broker retains generation {reported.generation} of this device, "
            f"its state has {generation}",
            "a running agent corrects this by itself; or does another machine use this id?",
        )
