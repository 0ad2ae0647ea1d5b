"""What content may take of the disk, and what never makes way for anything."""

import queue

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapters.content_files import ContentStore
from agent.adapters.fetcher import Fetcher
from agent.core.states import DeviceState, ModelRecord, Ref
from agent.core.trust import Allowed
from wire.content import ChunkRef
from wire.errors import StorageError
from wire.lifecycle import Code, Outcome
from wire.manifest import digest_of
from wire.topics import Chunk

KB = 1024


def install(store, bundle):
    """Put a whole bundle into a store, as the fetcher does."""
    for digest, plain in bundle.chunks.items():
        store.put_chunk(digest, plain)
    for data in (bundle.manifest, *bundle.files.values()):
        store.assemble(
            digest_of(data),
            [ChunkRef(digest_of(data[i : i + 30_000]), 0) for i in range(0, len(data), 30_000)],
        )
    store.seal(digest_of(bundle.manifest), bundle.index)


def taken(root):
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


class Link:
    """Brings each chunk that is subscribed to, at once."""

    def __init__(self, bundle):
        self._payloads = {Chunk(d).text: (d, p) for d, p in bundle.payloads().items()}
        self.peak_bytes = 0
        self.fetcher = None
        self.root = None

    def subscribe(self, filters, *, qos):
        for text in filters:
            self.peak_bytes = max(self.peak_bytes, taken(self.root))
            self.fetcher.on_chunk(*self._payloads[text])

    def unsubscribe(self, filters):
        self.peak_bytes = max(self.peak_bytes, taken(self.root))


def fetch(root, bundle, max_bytes):
    """Fetch a bundle into a store with a budget; return what the fetcher tells, and the peak."""
    link, told = Link(bundle), queue.Queue()
    fetcher = Fetcher(
        ContentStore(root, max_bytes),
        link,
        tell=told.put,
        ask_again=print,
        check=lambda _m: None,
        authorise=lambda _a: Allowed(),
    )
    link.fetcher, link.root = fetcher, root
    fetcher.on_link(is_up=True)
    fetcher.start()
    fetcher.fetch(bundle.assignment)
    try:
        return told.get(timeout=120), max(link.peak_bytes, taken(root))
    finally:
        fetcher.stop()


def test_an_update_over_the_budget_fails_and_evicts_nothing(tmp_path, make_bundle):
    active = make_bundle(b"a" * 100_000)
    install(ContentStore(tmp_path), active)
    update = make_bundle(np.random.default_rng(1).bytes(400 * KB), version="2.0.0")
    update.version = "2.0.0"
    before = taken(tmp_path)
    said, _ = fetch(tmp_path, update, before + 800 * KB - 1)
    assert (said.outcome, said.code) == (Outcome.FAILED, Code.DISK_BUDGET)
    assert "800 kB are needed" in said.detail
    ContentStore(tmp_path).load(digest_of(active.manifest))
    stale = b"of an update that was given up" * 20_000
    ContentStore(tmp_path).put_chunk(digest_of(stale), stale)
    said, peak_bytes = fetch(tmp_path, update, before + 810 * KB)
    assert said == update.staged
    assert peak_bytes <= before + 810 * KB
    ContentStore(tmp_path).load(digest_of(active.manifest))


BUNDLE_COUNT = 6
PICK = st.none() | st.integers(0, BUNDLE_COUNT - 1)


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it keeps nothing
)
@given(
    records=st.lists(st.tuples(PICK, PICK), max_size=3),
    installed=st.sets(st.integers(0, BUNDLE_COUNT - 1)),
    is_damaged=st.booleans(),
)
def test_collection_never_touches_active_fallback_or_their_metadata(
    tmp_path_factory, make_bundle, records, installed, is_damaged
):
    """Whatever a device's state says, all that it serves or may return to is whole afterwards."""
    root = tmp_path_factory.mktemp("store")
    bundles = [make_bundle(bytes([n]) * 40_000, version=f"{n}.0.0") for n in range(BUNDLE_COUNT)]
    refs = [Ref(b.version, digest_of(b.manifest), digest_of(b.index)) for b in bundles]
    models = tuple(
        ModelRecord(
            f"m{number}",
            active=None if active is None else refs[active],
            fallback=None if fallback is None else refs[fallback],
        )
        for number, (active, fallback) in enumerate(records)
    )
    state = DeviceState(models=models)
    needed = {pick for pair in records for pick in pair if pick is not None}
    store = ContentStore(root)
    for number in sorted(needed | installed):
        install(store, bundles[number])
    if is_damaged and installed - needed:
        # A manifest that is damaged, of a bundle that is not needed, protects nothing and harms nothing.
        (store.content / refs[min(installed - needed)].manifest).write_bytes(b"{")
    store.collect(state.needed_manifests())
    again = ContentStore(root)
    for number in needed:
        manifest, files = again.load(refs[number].manifest)
        assert again.is_whole(refs[number].manifest)
        assert {files[entry.path].read_bytes() for entry in manifest.files} == set(
            bundles[number].files.values()
        )
    wanted = {
        digest_of(d) for n in needed for d in (bundles[n].manifest, *bundles[n].files.values())
    }
    assert {path.name for path in again.content.iterdir()} == wanted
    assert sorted(path.stem for path in (root / "bundles").iterdir()) == sorted(
        {refs[n].manifest for n in needed}
    )


def test_the_floor_of_free_space_holds_within_the_budget(tmp_path):
    with pytest.raises(StorageError) as caught:
        ContentStore(tmp_path, max_bytes=10**18).require_free(10**17)
    assert caught.value.code == Code.DISK_FULL
