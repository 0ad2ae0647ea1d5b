import pytest

from agent.adapters.content_files import ContentStore
from wire.content import ChunkRef
from wire.errors import PeerError, StorageError
from wire.manifest import MODEL, digest_of


def install(store, bundle):
    for digest, plain in bundle.chunks.items():
        store.put_chunk(digest, plain)
    for data in (bundle.manifest, *bundle.files.values()):
        pieces = [p for p in bundle.chunks.values() if p in data]
        whole = (
            [ChunkRef(digest_of(data), len(data))]
            if digest_of(data) in bundle.chunks
            else [ChunkRef(digest_of(data[i : i + 30_000]), 0) for i in range(0, len(data), 30_000)]
        )
        assert pieces
        store.assemble(digest_of(data), whole)
    store.seal(digest_of(bundle.manifest), bundle.index)


def test_collect_keeps_what_is_named_and_shared_files(tmp_path, make_bundle):
    store = ContentStore(tmp_path)
    old, new = make_bundle(b"old" * 9), make_bundle(b"new" * 9, version="2.0.0")
    install(store, old)
    install(store, new)
    keep = digest_of(new.manifest)
    store.collect(frozenset({keep}))
    _, files = store.load(keep)
    assert files[MODEL].read_bytes() == b"new" * 9
    assert not store.is_whole(digest_of(old.manifest))
    assert {p.name for p in store.content.iterdir()} == {
        digest_of(data) for data in (new.manifest, *new.files.values())
    }


def test_nothing_is_collected_while_a_manifest_that_is_needed_cannot_be_read(tmp_path, make_bundle):
    store = ContentStore(tmp_path)
    old, new = make_bundle(b"old" * 9), make_bundle(b"new" * 9, version="2.0.0")
    install(store, old)
    install(store, new)
    keep = digest_of(new.manifest)
    (store.content / keep).rename(aside := tmp_path / "aside")
    (store.content / keep).mkdir()  # to read it is an error, and it is there
    store.collect(frozenset({keep}))
    (store.content / keep).rmdir()
    aside.rename(store.content / keep)
    store.load(keep)
    store.collect(frozenset({keep}))
    assert not store.has_file(digest_of(b"old" * 9)), "collected once it can be read"
    store.load(keep)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("which", ["model", "manifest"])
def test_damage_is_found_at_load(tmp_path, make_bundle, damage, which):
    store = ContentStore(tmp_path)
    bundle = make_bundle(b"m" * 500)
    install(store, bundle)
    digest = digest_of(bundle.manifest)
    path = store.content / (digest if which == "manifest" else digest_of(b"m" * 500))
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncate" else data[:-1] + b"?")
    with pytest.raises(StorageError) as caught:
        ContentStore(tmp_path).load(digest)
    assert caught.value.code == "content_corrupt"
    assert not store.is_whole(digest), "it will be fetched again"


def test_half_written_files_are_swept_and_torn_chunks_not_believed(tmp_path):
    store = ContentStore(tmp_path)
    (store.content / ".tmp-abc").write_bytes(b"half")
    chunk = ChunkRef(digest_of(b"chunk"), 5)
    store.put_chunk(chunk.digest, b"chunk")
    (tmp_path / "chunks" / chunk.digest).write_bytes(b"chu")
    again = ContentStore(tmp_path)
    assert list(again.content.iterdir()) == []
    assert not again.has_chunk(chunk)
    assert list((tmp_path / "chunks").iterdir()) == []


def test_a_chunk_that_is_longer_than_the_index_says_does_not_grow_a_file(tmp_path):
    store = ContentStore(tmp_path)
    digest, whole = digest_of(b"chunk"), b"chunk" * 3
    store.put_chunk(digest, b"chunk")
    store.assemble(digest_of(whole), [ChunkRef(digest, 5)] * 3)
    (store.content / digest_of(whole)).unlink()
    with pytest.raises(PeerError) as caught:
        store.assemble(digest_of(whole), [ChunkRef(digest, 1)] * 3)
    assert caught.value.code == "digest_mismatch"
    assert list(store.content.iterdir()) == []
