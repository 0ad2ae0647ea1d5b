"""Brings a bundle's content to this disk: chunk by chunk, over MQTT or HTTPS, resumable at any instant.

One thread works through one bundle at a time: the index, the manifest, then every file. Which
chunks are on disk is the whole of its memory, so it goes on where a power cut left it. What it
finishes or cannot finish it tells the loop as an event. Which source is asked is decided in
`agent.core.fetch_plan`; what comes is verified here, whoever sent it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.core import fetch_plan
from agent.core.events import BundleStaged, FetchFailed
from agent.core.fetch_plan import Source
from agent.core.states import Assignment, BundleFacts
from agent.core.trust import Refused, Verdict, Waits, refused
from wire import topics
from wire.content import ChunkRef, Index, decode_chunk, parse_index
from wire.errors import BundleError, ModelfleetError, PeerError, StorageError
from wire.ids import ReleaseRef
from wire.lifecycle import Code, Outcome
from wire.link import Link
from wire.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL,
    Manifest,
    digest_of,
    parse_manifest,
)
from wire.messages import MAX_MISSING_CHUNKS

from .content_files import ContentStore
from .second_source import ChunkPulls, Pulled, PullFailed, SecondSource

log = logging.getLogger(__name__)

IDLE_POLL_S: Final = 1.0
MAX_INBOX: Final = 32
"""Chunks waiting to be written, 2 MB at most, four windows; more of the broker's are dropped and asked
for again, those of the controller wait."""
OFFER_S: Final = 0.5

Tell = Callable[[BundleStaged | FetchFailed], None]
AskAgain = Callable[[Sequence[str]], None]
Authorise = Callable[[Assignment], Verdict]
"""Says whether signatures allow a release; asked from the fetcher's thread."""
CheckManifest = Callable[[Manifest], None]
"""Raises BundleError `incompatible` when this device cannot run the bundle."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    digest: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class _LinkChanged:
    is_up: bool


class _Superseded(Exception):  # noqa: N818 - not an error: another job or the end of the thread
    pass


class Fetcher:
    """Owns the content store's writing side and the chunk subscriptions of the link."""

    def __init__(
        self,
        store: ContentStore,
        link: Link,
        *,
        tell: Tell,
        ask_again: AskAgain,
        check: CheckManifest,
        authorise: Authorise,
        second_source: Callable[[], SecondSource] | None = None,
    ) -> None:
        """Put together what is needed; `second_source` is None where only the broker can be asked."""
        self._store = store
        self._link = link
        self._tell = tell
        self._ask_again = ask_again
        self._check = check
        self._authorise = authorise
        self._inbox: queue.Queue[_Chunk | Pulled | PullFailed | _LinkChanged | None]
        self._inbox = queue.Queue(MAX_INBOX)
        self._pulls = None if second_source is None else ChunkPulls(second_source, self._offer)
        self._sources = fetch_plan.BROKER_ALONE if self._pulls is None else fetch_plan.BOTH
        self._lock = threading.Lock()
        self._job: Assignment | None = None
        self._due_s = 0.0
        self._is_up = False
        self._refused: set[str] = set()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._main, name="fetcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is on disk stays and is used by the next start."""
        self._is_stopping = True
        self._wake()
        self._thread.join(timeout=10)
        if self._pulls is not None:
            self._pulls.stop()

    def is_alive(self) -> bool:
        """Return False if a thread has died, which ends the agent."""
        is_pulling = self._pulls is None or self._pulls.is_alive()
        return (self._thread.is_alive() and is_pulling) or self._is_stopping

    def fetch(self, assignment: Assignment, delay_s: float = 0.0) -> None:
        """Begin a bundle, after `delay_s`; one under way ends.

        One that was fetched is looked at again: its content may have been damaged since.
        """
        with self._lock:
            self._job = replace(assignment)  # jobs are told apart by identity
            self._due_s = time.monotonic() + delay_s
        self._wake()

    def cancel(self) -> None:
        """End the bundle under way, if any; no event follows."""
        with self._lock:
            self._job = None
        self._wake()

    def on_chunk(self, digest: str, payload: bytes) -> None:
        """Take a delivered chunk; never blocks."""
        try:
            self._inbox.put_nowait(_Chunk(digest, payload))
        except queue.Full:
            log.debug("chunk inbox is full; dropped one")

    def on_trust(self) -> None:
        """Look again whether what waits for signed metadata may go on."""
        self._wake()

    def on_link(self, *, is_up: bool) -> None:
        """Take a change of the link; a lost one ends all chunk subscriptions."""
        self._is_up = is_up
        self._wake(_LinkChanged(is_up))

    def _wake(self, item: _LinkChanged | None = None) -> None:
        # When it is full, the thread is busy with what fills it and looks at the job anyway.
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(item)

    def _offer(self, item: Pulled | PullFailed) -> bool:
        with contextlib.suppress(queue.Full):
            self._inbox.put(item, timeout=OFFER_S)
            return True
        return False

    def _main(self) -> None:
        done: Assignment | None = None
        while not self._is_stopping:
            with self._lock:
                job, due_s = self._job, self._due_s
            if job is None or job is done:
                self._inbox.get()  # whatever gives work or ends the thread puts something in
                continue
            try:
                self._rest(job, due_s)
                self._tell(self._work(job))
            except _Superseded:
                continue
            done = job

    def _rest(self, job: Assignment, due_s: float) -> None:
        """Return when a job is due.

        Raises:
            _Superseded: Another job came, or the agent ends.
        """
        while (left_s := due_s - time.monotonic()) > 0:
            self._check_wanted(job)
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=min(left_s, IDLE_POLL_S))

    def _work(self, job: Assignment) -> BundleStaged | FetchFailed:
        """Bring one bundle here; return how it ended.

        Raises:
            _Superseded: Another job came, or the agent ends.
        """
        manifest = job.ref.manifest
        self._sources = self._sources.for_another_bundle()
        try:
            self._await_signature(job)
            parsed = self._kept(job) if self._store.is_whole(manifest) else None
            if parsed is None:
                parsed = self._fetch(job)
                self._await_signature(job)  # it may have taken days, and a floor been raised
        except (BundleError, PeerError) as exc:
            return FetchFailed(manifest, Outcome.REJECTED, exc.code, str(exc))
        except StorageError as exc:
            return FetchFailed(manifest, Outcome.FAILED, exc.code, str(exc))
        except OSError as exc:
            return FetchFailed(manifest, Outcome.FAILED, Code.STORAGE_ERROR, str(exc))
        return BundleStaged(manifest, _facts(parsed))

    def _await_signature(self, job: Assignment) -> None:
        """Return when the release may be installed; metadata may be missing or have expired.

        Raises:
            PeerError: It may not, and newer metadata is not waited for.
            _Superseded: Another job came, or the agent ends.
        """
        while isinstance(verdict := self._authorise(job), Waits):
            self._check_wanted(job)
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=IDLE_POLL_S)
        if isinstance(verdict, Refused):
            raise refused(verdict.fault)

    def _kept(self, job: Assignment) -> Manifest | None:
        """Return the manifest of the bundle as it is on disk; None when it is no longer sound."""
        try:
            parsed, _ = self._store.load(job.ref.manifest)
        except StorageError as exc:
            log.warning("fetching again: %s", exc)
            return None
        self._accept(job, parsed)
        return parsed

    def _fetch(self, job: Assignment) -> Manifest:
        index, raw_index, pieces = self._read_index(job)
        payload = self._read_small(job, index.chunks_of(MANIFEST), MAX_MANIFEST_BYTES)
        if digest_of(payload) != job.ref.manifest:
            raise PeerError("the index leads to another manifest", code=Code.DIGEST_MISMATCH)
        parsed = parse_manifest(payload)
        self._accept(job, parsed)
        entries = [entry for entry in parsed.files if not self._store.has_file(entry.sha256)]
        chunks = {chunk.digest for path in index.files or () for chunk in index.chunks_of(path)}
        self._store.drop_chunks(but=chunks | pieces)
        # Chunks and the files made of them are on disk together for a moment.
        self._store.require_free(2 * sum(entry.bytes for entry in entries))
        self._store.assemble(job.ref.manifest, index.chunks_of(MANIFEST))
        for entry in entries:
            parts = index.chunks_of(entry.path)
            if sum(part.bytes for part in parts) != entry.bytes:
                raise PeerError(
                    f"the index of {entry.path} does not add up to its size",
                    code=Code.DIGEST_MISMATCH,
                )
            self._obtain(job, parts)
            self._store.assemble(entry.sha256, parts)
        self._store.seal(job.ref.manifest, raw_index)
        return parsed

    def _accept(self, job: Assignment, parsed: Manifest) -> None:
        """Check that the bundle is what was assigned, and can run here.

        Raises:
            PeerError: `wrong_model`.
            BundleError: `incompatible`.
        """
        if (parsed.name, parsed.version) != (job.name, job.ref.version):
            raise PeerError(
                f"assigned as {ReleaseRef(job.name, job.ref.version)}, "
                f"but the bundle is {ReleaseRef(parsed.name, parsed.version)}",
                code=Code.WRONG_MODEL,
            )
        self._check(parsed)

    def _read_index(self, job: Assignment) -> tuple[Index, bytes, set[str]]:
        """Return a bundle's index, its bytes, and the chunks that it came in."""
        pieces = {job.ref.index}
        payload = self._read_small(job, [ChunkRef(job.ref.index, 0)], None)
        index = parse_index(payload)
        if index.index is not None:
            refs = [ChunkRef(*pair) for pair in index.index]
            pieces.update(ref.digest for ref in refs)
            payload = self._read_small(job, refs, None)
            index = parse_index(payload)
        if index.files is None:
            raise PeerError("the content index has too many levels", code=Code.INDEX_INVALID)
        return index, payload, pieces

    def _read_small(
        self, job: Assignment, chunks: Sequence[ChunkRef], max_bytes: int | None
    ) -> bytes:
        if max_bytes is not None and sum(chunk.bytes for chunk in chunks) > max_bytes:
            raise BundleError("manifest.json is over its cap", code=Code.MANIFEST_INVALID)
        self._obtain(job, chunks)
        return b"".join(self._store.read_chunk(chunk) for chunk in chunks)

    def _obtain(self, job: Assignment, chunks: Sequence[ChunkRef]) -> None:
        """Return when all of these chunks are on disk."""
        self._store.copy_known_chunks(chunks)
        missing = [chunk.digest for chunk in chunks if not self._store.has_chunk(chunk)]
        plan = fetch_plan.begin(missing, time.monotonic(), self._sources)
        self._refused.clear()
        try:
            while not plan.is_done:
                self._check_wanted(job)
                plan, fresh = fetch_plan.ask(plan, is_up=self._is_up)
                self._request(plan.sources.current, fresh)
                plan = self._take(plan)
                plan = self._look_at_clock(plan)
        finally:
            self._drop(plan)

    def _look_at_clock(self, plan: fetch_plan.FetchPlan) -> fetch_plan.FetchPlan:
        """Return the plan after what does not come was asked for by name."""
        is_up = self._is_up
        later, late = fetch_plan.overdue(plan, time.monotonic(), is_up=is_up)
        if late:
            self._unsubscribe(late)
            self._ask_again(sorted(late)[:MAX_MISSING_CHUNKS])
        is_turned = later.sources.current is Source.CONTROLLER
        missed = "it is silent" if is_up else "there is no link to it"
        self._note(plan, later, missed if is_turned else "there is a link to it")
        return later

    def _drop(self, plan: fetch_plan.FetchPlan) -> None:
        """Wait no more for what is awaited."""
        self._unsubscribe(plan.asked)
        if plan.asked and self._pulls is not None:
            self._pulls.drop()

    def _request(self, source: Source, fresh: Sequence[str]) -> None:
        """Ask for chunks."""
        if source is Source.BROKER or self._pulls is None:
            self._subscribe(fresh)
        else:
            self._pulls.ask(fresh)

    def _take(self, plan: fetch_plan.FetchPlan) -> fetch_plan.FetchPlan:
        """Wait for one item of the inbox, and return the plan after it."""
        try:
            item = self._inbox.get(timeout=IDLE_POLL_S)
        except queue.Empty:
            return plan
        match item:
            case _Chunk(digest=digest, payload=payload) if digest in plan.asked:
                try:
                    return self._keep(plan, digest, payload, Source.BROKER)
                except PeerError as exc:
                    self._refuse(plan, digest, exc)
                    return plan
            case Pulled(digest=digest, payload=payload) if digest in plan.asked:
                try:
                    return self._keep(plan, digest, payload, Source.CONTROLLER)
                except PeerError as exc:
                    log.warning("refused a chunk of the controller's: %s", exc)
                    return self._pull_failed(plan, exc)
            case PullFailed(digest=digest, error=error) if self._is_pulled(plan, digest):
                return self._pull_failed(plan, error)
            case _LinkChanged():
                return fetch_plan.link_changed(plan, time.monotonic())
            case _:
                return plan

    def _is_pulled(self, plan: fetch_plan.FetchPlan, digest: str) -> bool:
        """Return whether a failure is news: those that follow the first one in a window are not."""
        is_turned = plan.sources.current is Source.CONTROLLER
        return digest in plan.asked and (is_turned or digest in self._refused)

    def _keep(
        self, plan: fetch_plan.FetchPlan, digest: str, payload: bytes, by: Source
    ) -> fetch_plan.FetchPlan:
        """Put a chunk on disk, and return the plan after it.

        Raises:
            PeerError: It is not what it claims.
            StorageError: The disk failed.
        """
        self._store.put_chunk(digest, decode_chunk(digest, payload))
        if plan.sources.current is Source.BROKER:
            self._unsubscribe([digest])
        return fetch_plan.received(plan, digest, time.monotonic(), by)

    def _refuse(self, plan: fetch_plan.FetchPlan, digest: str, why: PeerError) -> None:
        """Have the right bytes of a chunk sent and pulled, at once but only once: a liar may go on."""
        log.warning("refused a chunk: %s", why)
        if digest in self._refused:
            return
        self._refused.add(digest)
        self._ask_again([digest])
        if plan.sources.current is Source.CONTROLLER or self._pulls is None:
            return
        if plan.sources.may_pull(time.monotonic()):
            self._pulls.ask([digest])

    def _pull_failed(
        self, plan: fetch_plan.FetchPlan, error: ModelfleetError
    ) -> fetch_plan.FetchPlan:
        """Return the plan that goes on with the broker."""
        if self._pulls is not None:
            self._pulls.drop()
        now_s = time.monotonic()
        later = fetch_plan.pull_failed(plan, now_s, secrets.randbelow(1000) / 1000)
        rest_s = later.sources.rests_until_s - now_s
        self._note(plan, later, f"{error}; it is asked again in {rest_s:.0f} s at the earliest")
        return later

    def _note(self, before: fetch_plan.FetchPlan, after: fetch_plan.FetchPlan, why: str) -> None:
        """Keep which source is asked, and tell of a change."""
        self._sources = after.sources
        if after.sources.current is before.sources.current:
            return
        if after.sources.current is Source.CONTROLLER:
            log.warning("chunks come from the controller now, not from the broker: %s", why)
        else:
            log.warning("chunks come from the broker again: %s", why)

    def _check_wanted(self, job: Assignment) -> None:
        with self._lock:
            is_wanted = self._job is job
        if self._is_stopping or not is_wanted:
            raise _Superseded

    def _subscribe(self, digests: Sequence[str]) -> None:
        if digests:
            self._link.subscribe([topics.Chunk(digest).text for digest in digests], qos=0)

    def _unsubscribe(self, digests: Collection[str]) -> None:
        if digests:
            self._link.unsubscribe([topics.Chunk(digest).text for digest in digests])


def _facts(manifest: Manifest) -> BundleFacts:
    return BundleFacts(
        model=manifest.file(MODEL).sha256,
        p99_ms=manifest.budgets.p99_ms,
        memory_mb=manifest.budgets.memory_mb,
    )
