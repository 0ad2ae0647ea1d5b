"""An audit of who may talk: what the broker really does, tried by round trip, and what is on record.

A broker's word is not taken for it: MQTT 3.1.1 acknowledges a publication that it throws away. Two
devices that exist for a minute only try each other's topics, and what arrives is what counts. The
checks on record are those of AWS IoT Device Defender.
"""

from __future__ import annotations

import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fleet.store.devices import Selection
from fleet.store.identities import CertificateRow
from fleet.store.store import Store
from wire.endpoint import TlsFiles
from wire.errors import TransferError
from wire.topics import ROOT

from .access import Access
from .authority import DAY_MS, CertificateAuthority, new_request, read_certificate, read_request
from .folder import KeyPair
from .grants import AUDITOR_NAME, grants
from .peer import ANSWER_S, Peer

Verdict = Literal["ok", "warning", "fault"]

LIFE_DAYS: Final = 10 / 1440
"""Of the certificates that are made for one audit."""
LONG_TOKEN_MS: Final = 7 * DAY_MS
EXPIRY_MS: Final = 30 * DAY_MS
SEVERAL_MS: Final = DAY_MS
"""A device retires its former certificate within minutes of having a new one."""
NAMED: Final = 5
LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


@dataclass
class Audit:
    """One audit of one fleet."""

    authority: CertificateAuthority
    store: Store
    access: Access
    clock: Callable[[], int]
    broker_url: str
    _peers: list[Peer] = field(default_factory=list)

    def run(self) -> list[Finding]:
        """Return findings, the broker's first; takes about ten seconds.

        Raises:
            StorageError: The store or the folder failed.
        """
        found: list[Finding] = []
        try:
            found += self._try_broker()
        except TransferError as exc:
            found.append(Finding("broker", "fault", str(exc), exc.hint))
        found += self._on_record()
        return found

    # -- by round trip

    def _try_broker(self) -> Iterator[Finding]:
        mark = secrets.token_hex(4)
        names = [f"audit-{mark}-{letter}" for letter in "ab"]
        with tempfile.TemporaryDirectory(dir=self.authority.folder.root) as folder:
            files = {name: self._admit(Path(folder), name) for name in names}
            auditor = KeyPair(Path(folder) / "auditor.key", Path(folder) / "auditor.pem")
            self.authority.issue_program(auditor, AUDITOR_NAME, self.clock(), days=LIFE_DAYS)
            ca = self.authority.folder.ca.certificate
            self.access.refresh()
            log_bytes = self._log_bytes()
            try:
                judge = self._join("auditor", TlsFiles(ca, auditor.certificate, auditor.key))
                one, other = (self._join(name, files[name]) for name in names)
                yield from _crossings(judge, (names[0], one), (names[1], other), mark)
                yield self._stealing(one, names[0], files[names[1]])
                yield self._without_certificate(ca)
                yield self._after_revocation(names[0], files[names[0]])
                yield self._logging(log_bytes)
            finally:
                for peer in self._peers:
                    peer.link.stop()
                self._peers.clear()
                with self.store.write() as tx:
                    for name in names:
                        tx.identities.revoke(name, self.clock())
                self.access.refresh()
                self.access.set_seen_out(names)  # their connections were ours

    def _admit(self, folder: Path, name: str) -> TlsFiles:
        pair = KeyPair(folder / f"{name}.key", folder / f"{name}.pem")
        now = self.clock()
        request = read_request(new_request(pair.key, name))
        issued = self.authority.issue(request, now, days=LIFE_DAYS)
        pair.certificate.write_text(issued.pem)
        with self.store.write() as tx:
            tx.identities.add_certificate(
                CertificateRow(
                    issued.serial,
                    name,
                    issued.key_digest,
                    issued.pem,
                    now,
                    issued.not_after_unix_ms,
                )
            )
        return TlsFiles(self.authority.folder.ca.certificate, pair.certificate, pair.key)

    def _peer(self, client_id: str, files: TlsFiles) -> Peer:
        peer = Peer(self.broker_url, client_id, files)
        self._peers.append(peer)
        return peer

    def _join(self, client_id: str, files: TlsFiles) -> Peer:
        peer = self._peer(client_id, files)
        if not peer.connects():
            raise TransferError(
                f"{self.broker_url} does not let {client_id} in, who has a certificate of the fleet",
                code="broker_unreachable",
                hint="is it up, configured by `fleet broker config`, and told of changes by [broker] reload?",
            )
        return peer

    def _stealing(self, victim: Peer, name: str, foreign: TlsFiles) -> Finding:
        ends = victim.ends
        thief = self._peer(name, foreign)
        thief.connects(ANSWER_S)
        victim.drain(1.0)
        if victim.ends == ends:
            return Finding("client id", "ok", "no device can take another's")
        return Finding(
            "client id",
            "warning",
            "a device can throw another off by its client id; it hears nothing that is for it",
            "NATS cannot bind client ids to certificates; mosquitto does",
        )

    def _without_certificate(self, ca: Path) -> Finding:
        if self._peer("nobody", TlsFiles(ca)).is_let_in_at_once():
            return Finding(
                "certificates",
                "fault",
                "the broker lets in who shows none",
                "configure it by `fleet broker config`",
            )
        return Finding("certificates", "ok", "nobody gets in without one")

    def _after_revocation(self, name: str, files: TlsFiles) -> Finding:
        with self.store.write() as tx:
            tx.identities.revoke(name, self.clock())
        self.access.refresh()
        self.access.cut(name)
        time.sleep(1.0)  # a broker reads its files when it comes to it
        if self._peer(name, files).is_let_in_at_once():
            return Finding(
                "revocation",
                "fault",
                "a revoked certificate still opens the broker",
                "set [broker] reload in fleet.toml to the command by which it reads its files again",
            )
        return Finding("revocation", "ok", "a revoked certificate opens nothing")

    def _log_bytes(self) -> int:
        log = self.access.broker_log
        return log.stat().st_size if log is not None and log.is_file() else 0

    def _logging(self, before: int) -> Finding:
        """Judge by what was just refused, which is an error or a warning to a broker that logs."""
        log = self.access.broker_log
        if log is None:
            return Finding(
                "logging",
                "warning",
                "it is not known where the broker writes what it refuses",
                "name the file in fleet.toml: [broker] log",
            )
        until_s = time.monotonic() + ANSWER_S
        while self._log_bytes() == before:
            if time.monotonic() > until_s:
                return Finding(
                    "logging",
                    "fault",
                    f"of those that it refused, the broker wrote nothing to {log}",
                    "have it write errors and warnings there, as by `fleet broker config`",
                )
            time.sleep(LOOK_S)
        return Finding("logging", "ok", f"what it refuses is written to {log}")

    # -- on record

    def _on_record(self) -> Iterator[Finding]:
        now = self.clock()
        with self.store.read() as tx:
            rows = tx.identities.certificates()
            presence = tx.devices.presence(Selection())
            tokens = tx.identities.open_tokens(now)
            observers = tx.identities.observers()
        usable = [r for r in rows if r.revoked_unix_ms is None and r.not_after_unix_ms > now]
        yield _listed(
            "shared keys",
            _shared(rows),
            "every key belongs to one device",
            "revoke these devices, and let them in again: each must make its own key",
        )
        yield _listed(
            "several certificates",
            _several(usable, now),
            "no device has a former one left",
            "does another machine use the same id? `fleet device revoke`, then a new token",
        )
        out = {r.device for r in rows} - {r.device for r in usable}
        yield _listed(
            "revoked but active",
            sorted(name for name in out if name in presence and presence[name].state == "online"),
            "nobody is online without a usable certificate",
            "`fleet device revoke NAME` cuts the connection; or wait, if it has only expired",
        )
        yield _listed(
            "join tokens",
            sorted(device for device, expires in tokens if expires - now > LONG_TOKEN_MS),
            f"{len(tokens)} open, none for longer than a week",
            "`fleet device token NAME` replaces one by one for an hour",
            verdict="warning",
        )
        yield _listed(
            "observers",
            [
                f"{row.device} in {max(0, row.not_after_unix_ms - now) // DAY_MS} days"
                for row in observers
                if row.not_after_unix_ms - now < EXPIRY_MS
            ],
            f"{len(observers)}, none of whom loses the right to watch within 30 days",
            "`fleet observer NAME` makes the next certificate: nobody renews them",
            verdict="warning",
        )
        yield self._own_certificates(now)
        yield self._own_keys()

    def _own_certificates(self, now: int) -> Finding:
        folder = self.authority.folder
        soon = []
        for pair in (folder.ca, folder.server, folder.controller, folder.observer):
            left_ms = read_certificate(pair.certificate.read_text()).not_after_unix_ms - now
            if left_ms < EXPIRY_MS:
                soon.append(f"{pair.certificate.name} in {max(0, left_ms) // DAY_MS} days")
        return _listed(
            "expiry", soon, "not within 30 days", "restart the controller: it renews them"
        )

    def _own_keys(self) -> Finding:
        folder = self.authority.folder
        pairs = (folder.ca, folder.server, folder.controller, folder.observer)
        open_ = [p.key.name for p in pairs if stat.S_IMODE(p.key.stat().st_mode) & 0o077]
        return _listed(
            "keys of the fleet",
            open_,
            "P-256, for their owner's eyes only",
            f"chmod 600 in {folder.root}",
        )


def _crossings(
    judge: Peer, one: tuple[str, Peer], other: tuple[str, Peer], mark: str
) -> Iterator[Finding]:
    """Have one try all topics of the other, and those of the controller."""
    (name, rogue), (victim, _) = one, other
    judge.link.subscribe([f"{ROOT}/#"], qos=1)
    judge.say(f"{ROOT}/device/{name}/ack", b"ready")  # the subscription stands when it comes back
    if not judge.hears(f"{ROOT}/device/{name}/ack", b"ready"):
        raise TransferError("the broker does not deliver to the auditor", code="broker_unreachable")
    own = {g.of(name) for g in grants() if g.device_writes}
    chosen = {f"{ROOT}/device/{name}/{group}/audit-{mark}" for group in ("event", "telemetry")}
    tried = [g.of(victim).replace("+", f"audit-{mark}") for g in grants()]
    for topic in tried:
        rogue.say(topic, f"{mark} crossed".encode())
    for topic in sorted(own | chosen):
        rogue.say(topic, f"{mark} own".encode())
    last = f"{ROOT}/device/{name}/reported"
    rogue.say(last, f"{mark} last".encode())
    is_heard = judge.hears(last, f"{mark} last".encode())
    crossed = sorted(t for t, payload in judge.heard if payload == f"{mark} crossed".encode())
    arrived = {t for t, payload in judge.heard if payload == f"{mark} own".encode()}
    lost = sorted(own - arrived)
    yield _listed(
        "writing", crossed, f"{len(tried)} topics of others and of the controller: none", FIX
    )
    yield _listed(
        "kinds",
        sorted(chosen & arrived),
        "a device cannot make up topics, and fill the broker with what it retains there",
        FIX,
        verdict="warning",
    )
    if lost or not is_heard:
        yield Finding(
            "own topics", "fault", f"a device cannot write {', '.join(lost) or last}", FIX
        )
    rogue.link.subscribe([*tried, *WILD, f"{ROOT}/device/{name}/desired"], qos=1)
    for topic in tried:
        if "/device/" in topic:
            judge.say(topic, f"{mark} secret".encode())
    desired = f"{ROOT}/device/{name}/desired"
    for _ in range(int(ANSWER_S)):  # again, until its subscription stands
        judge.say(desired, f"{mark} last".encode())
        if rogue.hears_soon(desired, f"{mark} last".encode()):
            break
    else:
        yield Finding("own topics", "fault", "a device does not hear what is for it", FIX)
    for topic in tried:
        if "/device/" in topic:
            judge.say(topic, f"{mark} secret".encode())
    judge.say(desired, f"{mark} end".encode())
    rogue.hears(desired, f"{mark} end".encode())
    read = sorted({t for t, payload in rogue.heard if payload == f"{mark} secret".encode()})
    yield _listed(
        "reading", read, f"{len(tried)} topics of others and {len(WILD)} wildcards: none", FIX
    )


FIX: Final = "configure the broker by `fleet broker config`; nothing else may grant rights there"
WILD: Final = (
    "#",
    f"{ROOT}/#",
    f"{ROOT}/device/#",
    f"{ROOT}/device/+/desired",
    f"{ROOT}/device/+/+",
)


def _shared(rows: list[CertificateRow]) -> list[str]:
    owners: dict[str, set[str]] = {}
    for row in rows:
        owners.setdefault(row.key_digest, set()).add(row.device)
    return sorted(" = ".join(sorted(names)) for names in owners.values() if len(names) > 1)


def _several(usable: list[CertificateRow], now: int) -> list[str]:
    """Return devices that still have a certificate a day after the next one was made."""
    newest: dict[str, int] = {}
    for row in usable:
        newest[row.device] = max(newest.get(row.device, 0), row.issued_unix_ms)
    return sorted(
        {
            row.device
            for row in usable
            if row.issued_unix_ms < newest[row.device] and now - newest[row.device] > SEVERAL_MS
        }
    )


def _listed(
    subject: str, bad: list[str], good: str, remedy: str, *, verdict: Verdict = "fault"
) -> Finding:
    if not bad:
        return Finding(subject, "ok", good)
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return Finding(subject, verdict, ", ".join(bad[:NAMED]) + more, remedy)
