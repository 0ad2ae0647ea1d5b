"""What a device makes of what the controller has: python-tuf's own client, unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from fleet.api.trust import document
from fleet.store.store import Store
from wire.errors import PeerError
from wire.trust import target_path

BASE = "trust://"


class StoreFetcher(FetcherInterface):
    """Reads documents from the controller's store, by the names that they have over HTTP."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with self._store.read() as tx:
                body = document(tx, url.removeprefix(BASE)).body
        except PeerError as exc:
            raise DownloadHTTPError(str(exc), 404) from exc
        yield body.encode()


class DeviceSight:
    """One device's view, with its memory of former versions."""

    def __init__(self, store: Store, root: bytes, folder: Path) -> None:
        folder.mkdir()
        self._store = store
        self._root = root
        self._folder = folder

    def number(self, model: str, version: str) -> int | None:
        """Refresh, and return the number of a release, None if it is not signed.

        Raises:
            tuf.api.exceptions.RepositoryError: What a device refuses.
        """
        updater = Updater(
            str(self._folder), BASE, fetcher=StoreFetcher(self._store), bootstrap=self._root
        )
        updater.refresh()
        target = updater.get_targetinfo(target_path(model, version))
        return target.custom["number"] if target is not None else None
