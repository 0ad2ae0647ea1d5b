"""What the broker reads of who may talk: written from the store, read by it at a signal."""

from __future__ import annotations

import logging
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from fleet.registry import clear_retained
from fleet.store.store import Store
from wire.endpoint import TlsFiles, parse_broker_url
from wire.ids import NAME_PATTERN
from wire.link import Connected, LinkEvent
from wire.link_paho import PahoLink
from wire.mailbox import Mailbox

from . import brokers
from .authority import CertificateAuthority
from .folder import KeyPair, PkiFolder, write_private

log = logging.getLogger(__name__)

CUT_DAYS: Final = 5 / 1440
"""Life of a certificate that only takes a connection over: five minutes."""
CUT_S: Final = 4.0
"""How long a take-over may last; an answer on a busy machine comes within one."""
CUT_AGAIN_S: Final = 1.0
SEEN_OUT: Final = "seen-out.txt"
"""In the authority's folder: serial numbers of revoked certificates by whose names nobody is connected."""


def found_pki(folder: PkiFolder, hosts: Iterable[str], now_unix_ms: int) -> CertificateAuthority:
    """Make a fleet's authority with all that a broker needs to start; what is there stays.

    Raises:
        StorageError: `pki_unwritable`.
        ConfigError: `pki_missing`: an authority is there, and cannot be used.
    """
    authority = CertificateAuthority.found(folder, hosts, now_unix_ms)
    files = (folder.crl, folder.mosquitto_acl, folder.nats_users)
    if not all(file.exists() for file in files):
        write_access(authority, (), (), now_unix_ms)
    return authority


def write_access(
    authority: CertificateAuthority,
    usable: Sequence[tuple[str, str]],
    revoked: Sequence[tuple[str, int]],
    now_unix_ms: int,
) -> bool:
    """Write what brokers read of who may talk; return whether something is new to them.

    Args:
        authority: Signs the list of revoked certificates.
        usable: Serial number and name of every certificate that may be used.
        revoked: Serial number and instant of those that may not be any more.
        now_unix_ms: The time.

    Raises:
        StorageError: `pki_unwritable`.
    """
    folder = authority.folder
    note = folder.root / "revoked.txt"
    # A list is signed, so that equal ones differ; what is in it is compared beside it.
    listed = "".join(f"{serial} {at}\n" for serial, at in revoked).encode()
    is_new = not folder.crl.exists() or _read(note) != listed
    if is_new:
        write_private(folder.crl, authority.revocations(revoked, now_unix_ms))
        write_private(note, listed)
    for path, text in (
        (folder.mosquitto_acl, brokers.mosquitto_acl(name for _, name in usable)),
        (folder.nats_users, brokers.nats_users(usable)),
    ):
        if _read(path) != text.encode():
            write_private(path, text.encode())
            is_new = True
    return is_new


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


class Access:
    """Keeps a broker's files as the store has it, and ends the connections of who was put out."""

    def __init__(
        self,
        authority: CertificateAuthority,
        store: Store,
        clock: Callable[[], int],
        *,
        broker_url: str,
        reload: Callable[[], None],
        broker_log: Path | None = None,
    ) -> None:
        """Take note of whom to tell.

        Args:
            authority: The fleet's.
            store: Says which certificates are usable.
            clock: Milliseconds of the Unix epoch.
            broker_url: Where the broker is.
            reload: Has the broker read its files again; does nothing for a broker of another's.
            broker_log: Where the broker writes whom it refused; None where that is not known.
        """
        self.broker_url = broker_url
        self.broker_log = broker_log
        self._authority = authority
        self._store = store
        self._clock = clock
        self._reload = reload
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Bring the broker's files up to date; have it read them when something is new.

        Raises:
            StorageError: The store or the folder failed; the next call does what is missing.
        """
        with self._lock:
            now = self._clock()
            with self._store.read() as tx:
                usable, revoked = tx.identities.usable(now), tx.identities.revoked(now)
            if write_access(self._authority, usable, revoked, now):
                self._reload()

    def reload(self) -> None:
        """Have the broker read its certificates again."""
        self._reload()

    def see_out(self, name: str) -> bool:
        """Tell the broker of one whose certificates were revoked, and cut the connection.

        What fails here, or is killed, `make_good` does again.

        Returns:
            Whether the broker let us cut the connection.

        Raises:
            StorageError: The store or the folder failed.
        """
        self.refresh()
        is_cut = self.cut(name)
        if is_cut or self._can_be_reached():  # who is there and refuses us has no session of it
            self._clear_retained(name)
            self.set_seen_out([name])
        return is_cut

    def make_good(self, is_ending: Callable[[], bool] = lambda: False) -> None:
        """See those out whom a kill or a failure left on the broker.

        Args:
            is_ending: Asked between two of them; each takes seconds.

        Raises:
            StorageError: The store or the folder failed; the next call does what is missing.
        """
        if not (owed := self._owed()):
            return
        self.refresh()
        self._reload()  # the files may be right since before it was told of them
        for name in owed:
            if is_ending():
                return
            log.info("%s was put out; the broker is told again", name)
            self.see_out(name)

    def set_seen_out(self, names: Iterable[str]) -> None:
        """Note that none of these has a connection by a certificate that is revoked by now."""
        with self._lock:
            with self._store.read() as tx:
                put_out = tx.identities.put_out(self._clock())
            still = frozenset().union(*put_out.values())
            seen = (self._seen_out() & still).union(*(put_out.get(name, ()) for name in names))
            text = "".join(f"{serial}\n" for serial in sorted(seen))
            write_private(self._authority.folder.root / SEEN_OUT, text.encode())

    def _clear_retained(self, name: str) -> None:
        """Have the broker forget one who was removed: the will that the cut set free, and a rogue's last words."""
        with self._store.write() as tx:
            if re.fullmatch(NAME_PATTERN, name) and not tx.devices.known([name]):
                clear_retained(tx, name)

    def _owed(self) -> list[str]:
        with self._store.read() as tx:
            put_out = tx.identities.put_out(self._clock())
        seen = self._seen_out() if put_out else frozenset()
        return [name for name, serials in put_out.items() if not serials <= seen]

    def _seen_out(self) -> frozenset[str]:
        text = _read(self._authority.folder.root / SEEN_OUT) or b""
        return frozenset(text.decode(errors="replace").split())

    def _can_be_reached(self) -> bool:
        address = parse_broker_url(self.broker_url)
        try:
            socket.create_connection((address.host, address.port), CUT_S).close()
        except OSError:
            return False
        return True

    def cut(self, device: str) -> bool:
        """End a device's connection, by taking its client id over; return whether the broker let us.

        A broker lets a connection live when its certificate is revoked; NATS alone does not.
        """
        with tempfile.TemporaryDirectory(dir=self._authority.folder.root) as folder:
            pair = KeyPair(Path(folder) / "cut.key", Path(folder) / "cut.pem")
            self._authority.issue_program(pair, device, self._clock(), days=CUT_DAYS)
            files = TlsFiles(self._authority.folder.ca.certificate, pair.certificate, pair.key)
            if not self._take_over(device, files):
                return False
            # Should the broker have let it in again before it read the list: once more.
            threading.Event().wait(CUT_AGAIN_S)
            return self._take_over(device, files)

    def _take_over(self, device: str, files: TlsFiles) -> bool:
        first: Mailbox[LinkEvent] = Mailbox()
        link = PahoLink(self.broker_url, device, tls=files)
        link.start(first.put, lambda: None)
        try:
            return isinstance(first.get(CUT_S), Connected)
        finally:
            link.stop()
