"""What a step made is there whole or not at all, and is never believed when it was changed."""

import pytest

from fleet.pipeline.cache import Cache
from wire.errors import StorageError

KEY = "ab" * 32


def one_file(folder):
    (folder / "x.txt").write_text("made")


def test_what_was_made_is_found_again(tmp_path):
    cache = Cache(tmp_path / "c")
    assert cache.find("train", KEY) is None
    made = cache.make("train", KEY, one_file)
    assert (made.folder / "x.txt").read_text() == "made"
    assert Cache(tmp_path / "c").find("train", KEY) == made
    assert cache.find("convert", KEY) is None
    assert cache.find("train", "cd" * 32) is None


def test_the_digest_is_of_the_files_alone(tmp_path):
    one = Cache(tmp_path / "c").make("train", KEY, one_file)
    other = Cache(tmp_path / "d").make("convert", "cd" * 32, one_file)
    assert one.digest == other.digest
    third = Cache(tmp_path / "d").make("train", KEY, lambda f: (f / "y.txt").write_text("made"))
    assert third.digest != one.digest


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "more", "list", "list is no json"])
def test_what_was_damaged_is_made_again(tmp_path, damage):
    cache = Cache(tmp_path / "c")
    folder = cache.make("train", KEY, one_file).folder
    match damage:
        case "changed":
            (folder / "x.txt").write_text("mode")
        case "cut":
            (folder / "x.txt").write_text("")
        case "missing":
            (folder / "x.txt").unlink()
        case "more":
            (folder / "y.txt").write_text("")
        case "list":
            (folder / "files.json").unlink()
        case _:
            (folder / "files.json").write_text("[" * 100_000)
    assert cache.find("train", KEY) is None
    assert not folder.exists()


def test_a_step_that_fails_leaves_nothing(tmp_path):
    cache = Cache(tmp_path / "c")

    def fail(folder):
        one_file(folder)
        raise KeyError("no")

    with pytest.raises(KeyError):
        cache.make("train", KEY, fail)
    assert cache.find("train", KEY) is None
    assert list((tmp_path / "c").iterdir()) == []


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path):
    Cache(tmp_path / "c")
    part = tmp_path / "c/.part-0011"
    part.mkdir()
    one_file(part)
    Cache(tmp_path / "c")
    assert not part.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "c").write_text("a file")
    with pytest.raises(StorageError) as caught:
        Cache(tmp_path / "c")
    assert caught.value.code == "cache_unwritable"
