"""Signed metadata from the controller itself, pulled in a thread that lives as long as one pull.

Nothing is trusted more for coming this way: the documents are handed in as if the broker had delivered them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from wire.errors import ModelfleetError, PeerError
from wire.topics import ModelTrust, Trust
from wire.trust import model_role

from .second_source import SecondSource
from .trust_mqtt import MAX_DELIVERED_BYTES

log = logging.getLogger(__name__)

ROUNDS: Final = 3
"""Documents belong together if the timestamp did not change meanwhile; it does so once a day, and at a push."""
JOIN_S: Final = 2.0

Document = tuple[Trust | ModelTrust, bytes]


@dataclass(frozen=True, slots=True)
class MetadataPulled:
    """Documents that the controller gave, by the topics that they have at the broker, roots first."""

    documents: tuple[Document, ...]


class MetadataPulls:
    """Pulls, one at a time. For one thread."""

    def __init__(
        self,
        second_source: Callable[[], SecondSource] | None,
        tell: Callable[[MetadataPulled], None],
    ) -> None:
        """Take note of whom to ask and whom to tell.

        Args:
            second_source: Gives it; None where only the broker can be asked, and nothing is pulled.
            tell: Is told nothing when there was nothing to be had.
        """
        self._source = None if second_source is None else second_source()
        self._tell = tell
        self._thread: threading.Thread | None = None

    def ask(self, root_version: int, models: Collection[str]) -> None:
        """Begin to pull what follows a root, for these models; does nothing while a pull is under way."""
        if self._source is None or (self._thread is not None and self._thread.is_alive()):
            return
        pull = _Pull(self._source, root_version, sorted(models), self._tell)
        self._thread = threading.Thread(target=pull.run, name="metadata", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what is under way."""
        if self._thread is not None and self._source is not None:
            self._source.cut()
            self._thread.join(JOIN_S)


@dataclass(frozen=True, slots=True)
class _Pull:
    source: SecondSource
    root_version: int
    models: Collection[str]
    tell: Callable[[MetadataPulled], None]

    def run(self) -> None:
        try:
            documents = (*self._roots(self.root_version), *self._others())
        except ModelfleetError as exc:
            log.warning("signed metadata cannot be had from the controller: %s", exc)
            return
        finally:
            self.source.close()
        log.info("the controller gave %d documents of signed metadata", len(documents))
        self.tell(MetadataPulled(documents))

    def _roots(self, version: int) -> Iterator[Document]:
        size = 0
        while size < MAX_DELIVERED_BYTES:
            version += 1
            document = self._get(f"{version}.root.json")
            if document is None:
                return
            size += len(document)
            yield Trust(f"root-{version}"), document

    def _others(self) -> list[Document]:
        documents: list[Document] = []
        for _ in range(ROUNDS):
            timestamp = self.source.document("timestamp.json")
            documents = [
                (ModelTrust(model), document)
                for model in self.models
                if (document := self._get(f"{model_role(model)}.json")) is not None
            ]
            for role in ("targets", "snapshot"):
                documents.append((Trust(role), self.source.document(f"{role}.json")))
            documents.append((Trust("timestamp"), timestamp))
            if self.source.document("timestamp.json") == timestamp:
                break
        return documents

    def _get(self, name: str) -> bytes | None:
        """Return a document, None where the controller has none of this name."""
        try:
            return self.source.document(name)
        except PeerError as exc:
            if exc.code != "unknown_document":
                raise
            return None
