"""A controller's door for devices on loopback, and what a device keeps of its way in."""

import socket
import time

from fleet.api.device_app import build_device_app
from fleet.api.schemas import DeviceIn
from fleet.pki.access import Access, found_pki
from fleet.pki.door import Door
from fleet.pki.enrolment import Enrolment
from fleet.pki.folder import PkiFolder
from fleet.registry import add_devices
from fleet.store.releases import ReleaseRow
from fleet.store.store import Store
from tests.fleet.secured import now_unix_ms

BROKER = "mqtts://127.0.0.1:1"
DEVICES = ("cam-01", "cam-02")


class Site:
    """A controller's door, with a clock that is moved by hand; the other side's runs by itself."""

    def __init__(self, folder, root='{"signed":{}}', **more):
        self.root = root
        self.late_ms = 0
        self.told = []
        self.strangers = set()
        self.store = Store(folder / "fleet.db", folder)
        authority = found_pki(PkiFolder(folder / "pki"), (), self.now())
        with self.store.write() as tx:
            add_devices(tx, [DeviceIn(id=name) for name in DEVICES], self.now())
        access = Access(
            authority, self.store, self.now, broker_url=BROKER, reload=lambda: self.told.append(1)
        )
        self.enrolment = Enrolment(
            authority, self.store, access, self.now,
            broker_url=BROKER, door_url="", root=lambda: self.root,
            monotonic_s=lambda: time.monotonic() + self.late_ms / 1000, **more,
        )  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        self.folder = authority.folder
        self._door = Door(
            build_device_app(self.enrolment, self.store, self.strangers.__contains__), listener, authority=authority,
            enrolment=self.enrolment, access=access, hosts=(), clock=self.now,
        )  # fmt: skip
        self._door.start()

    def now(self):
        return now_unix_ms() + self.late_ms

    def token(self, device="cam-01", **more):
        return self.enrolment.invite(device, **more).token

    def release(self, chunks, manifest="a" * 64):
        """Have these chunks be those of a release."""
        lengths = self.store.chunks.add(chunks)
        size, index = sum(map(len, chunks.values())), next(iter(chunks))
        row = ReleaseRow(
            "digits", manifest[:8], manifest, index, size, len(chunks), "{}", self.now()
        )
        with self.store.write() as tx:
            tx.releases.add(row, {d: (len(plain), lengths[d]) for d, plain in chunks.items()})

    def certificates(self, device="cam-01"):
        with self.store.read() as tx:
            return tx.identities.certificates(device)

    def stop(self):
        self._door.stop()
        self.store.close()
