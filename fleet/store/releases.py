"""Releases and the chunks that their content is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, literal, select, tuple_, update

from .devices import BATCH, Selection
from .schema import CHUNKS, RELEASE_CHUNKS, RELEASES, REPORTED_MODELS


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A bundle that was pushed; `bytes` is the plain length of its files."""

    model: str
    version: str
    manifest: str
    index_digest: str
    bytes: int
    chunk_count: int
    manifest_body: str
    created_unix_ms: int


class Releases:
    """The tables `releases`, `chunks` and `release_chunks`, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, model: str, version: str) -> ReleaseRow | None:
        """Return a release by the name that people use."""
        query = select(RELEASES).where(RELEASES.c.model == model, RELEASES.c.version == version)
        row = self._connection.execute(query).one_or_none()
        return ReleaseRow(*row) if row is not None else None

    def by_manifest(self, manifest: str) -> ReleaseRow | None:
        """Return the release that a manifest's digest identifies."""
        row = self._connection.execute(
            select(RELEASES).where(RELEASES.c.manifest == manifest)
        ).one_or_none()
        return ReleaseRow(*row) if row is not None else None

    def by_manifests(self, manifests: Iterable[str]) -> dict[str, ReleaseRow]:
        """Return those releases that digests of manifests identify, by these."""
        wanted = sorted(set(manifests))
        found: dict[str, ReleaseRow] = {}
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            query = select(RELEASES).where(RELEASES.c.manifest.in_(part))
            rows = (ReleaseRow(*row) for row in self._connection.execute(query))
            found.update((row.manifest, row) for row in rows)
        return found

    def page(self, model: str, *, after: str, limit: int) -> list[ReleaseRow]:
        """Return the releases of a model that follow version `after`, newest first.

        Without a version those from the newest on; none after one that is not there.
        """
        order = (RELEASES.c.created_unix_ms.desc(), RELEASES.c.version.desc())
        query = select(RELEASES).where(RELEASES.c.model == model).order_by(*order).limit(limit)
        if after:
            last = self.get(model, after)
            if last is None:
                return []
            query = query.where(
                tuple_(RELEASES.c.created_unix_ms, RELEASES.c.version)
                < tuple_(literal(last.created_unix_ms), literal(last.version))
            )
        return [ReleaseRow(*row) for row in self._connection.execute(query)]

    def by_model(self, model: str | None = None) -> list[ReleaseRow]:
        """Return the releases, of one model or of all, newest first."""
        query = select(RELEASES).order_by(
            RELEASES.c.created_unix_ms.desc(), RELEASES.c.model, RELEASES.c.version.desc()
        )
        if model is not None:
            query = query.where(RELEASES.c.model == model)
        return [ReleaseRow(*row) for row in self._connection.execute(query)]

    def device_counts(self, selection: Selection) -> dict[str, int]:
        """Return how many of the selected devices report each manifest digest active."""
        query = (
            select(REPORTED_MODELS.c.active_manifest, func.count())
            .where(REPORTED_MODELS.c.device.in_(selection.ids()))
            .group_by(REPORTED_MODELS.c.active_manifest)
        )
        return {digest: count for digest, count in self._connection.execute(query) if digest}

    def serving(self, manifest: str) -> frozenset[str]:
        """Return the devices that report a manifest digest active."""
        query = select(REPORTED_MODELS.c.device).where(
            REPORTED_MODELS.c.active_manifest == manifest
        )
        return frozenset(self._connection.execute(query).scalars())

    def add(self, release: ReleaseRow, chunks: Mapping[str, tuple[int, int]]) -> list[str]:
        """Add a release and its chunks; return the chunks that were not known before.

        Args:
            release: The release.
            chunks: Digest to plain length and payload length, in bytes.
        """
        known = self.known(chunks)
        fresh = [digest for digest in chunks if digest not in known]
        if fresh:
            self._connection.execute(
                insert(CHUNKS),
                [
                    {
                        "digest": digest,
                        "plain_bytes": chunks[digest][0],
                        "payload_bytes": chunks[digest][1],
                        "is_published": False,
                    }
                    for digest in fresh
                ],
            )
        self._connection.execute(
            insert(RELEASES).values(
                model=release.model,
                version=release.version,
                manifest=release.manifest,
                index_digest=release.index_digest,
                bytes=release.bytes,
                chunk_count=release.chunk_count,
                manifest_body=release.manifest_body,
                created_unix_ms=release.created_unix_ms,
            )
        )
        self._connection.execute(
            insert(RELEASE_CHUNKS),
            [{"manifest": release.manifest, "chunk": digest} for digest in chunks],
        )
        return fresh

    def known(self, digests: Iterable[str]) -> set[str]:
        """Return those of `digests` that are chunks of some release."""
        wanted = sorted(set(digests))
        found: set[str] = set()
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            query = select(CHUNKS.c.digest).where(CHUNKS.c.digest.in_(part))
            found.update(self._connection.execute(query).scalars())
        return found

    def unpublished(self) -> list[str]:
        """Return the chunks that the broker has not yet acknowledged."""
        query = select(CHUNKS.c.digest).where(CHUNKS.c.is_published.is_(False))
        return list(self._connection.execute(query).scalars())

    def set_published(self, digests: Iterable[str]) -> None:
        """Note that the broker has these chunks."""
        wanted = sorted(set(digests))
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            self._connection.execute(
                update(CHUNKS).where(CHUNKS.c.digest.in_(part)).values(is_published=True)
            )
