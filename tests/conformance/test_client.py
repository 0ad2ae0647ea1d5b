"""The executable that tuf-conformance drives: its contract, over HTTP, as a program of its own."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.repository import DAY, Repository
from tests.conformance.server import begin, repository_answer, serving
from tests.spine.soundness import absent

pytestmark = pytest.mark.slow  # each command is a start of Python

CLIENT = Path(__file__).with_name("tuf-client").resolve()
FILE = "path/to/a file.txt"


class Client:
    """The executable, with directories of its own."""

    def __init__(self, root, url):
        self.metadata, self.targets = root / "metadata", root / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self.root, self.url = root, url
        self.said = ""

    def init(self, bootstrap):
        path = self.root / "initial_root.json"
        path.write_bytes(bootstrap)
        return self.run("init", str(path))

    def refresh(self, *, at=None):
        return self.run("--metadata-url", f"{self.url}/metadata", "refresh", at=at)

    def download(self, name, url=None):
        return self.run(
            "--metadata-url", f"{self.url}/metadata/", "--target-name", name,
            "--target-dir", str(self.targets), "--target-base-url", url or f"{self.url}/targets/",
            "download",
        )  # fmt: skip

    def run(self, *arguments, at=None):
        faked = ["faketime", str(at)] if at else []
        done = subprocess.run(
            [*faked, str(CLIENT), "--metadata-dir", str(self.metadata), *arguments],
            cwd="/", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        self.said = done.stderr
        return done.returncode

    def trusted(self):
        """Return what the suite looks at: the documents in the directory, by role."""
        return {
            path.stem: json.loads(path.read_bytes())["signed"]["version"]
            for path in sorted(self.metadata.iterdir())
            if path.suffix == ".json"
        }

    def files(self):
        return [path.read_bytes() for path in self.targets.rglob("*") if path.is_file()]


@pytest.fixture
def repository():
    repository = Repository()
    repository.add_target(FILE, b"content")
    repository.publish_all("targets")
    return repository


@pytest.fixture
def asked():
    return []


@pytest.fixture
def client(repository, asked, tmp_path):
    with serving(repository_answer(repository, asked)) as url:
        client = Client(tmp_path, url)
        assert client.init(repository.bootstrap) == 0
        yield client


def test_it_asks_for_what_is_new_and_nothing_else(client, repository, asked):
    assert client.trusted() == {"root": 1}
    assert asked == []
    assert client.refresh() == 0, client.said
    names = ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"]
    assert asked == [f"metadata/{name}" for name in names]
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    asked.clear()
    assert client.refresh() == 0
    assert asked == ["metadata/2.root.json", "metadata/timestamp.json"]
    repository.publish("root")
    asked.clear()
    assert client.refresh() == 0
    assert asked == [
        f"metadata/{name}" for name in ("2.root.json", "3.root.json", "timestamp.json")
    ]
    assert client.trusted()["root"] == 2


def test_it_downloads_a_file_once_and_refuses_another_in_its_place(client, repository, asked):
    assert client.download(FILE) == 0, client.said
    assert client.files() == [b"content"]
    (name,) = [name for name in repository.files if name.endswith("a file.txt")]
    repository.files[name] = b"poisoned"
    assert client.download(FILE) == 0  # it is there already
    repository.add_target("other.txt", b"other")
    repository.publish_all("targets")
    (name,) = [name for name in repository.files if name.endswith("other.txt")]
    repository.files[name] = b"orher"
    assert client.download("other.txt") == 1
    assert "trust_mismatch" in client.said
    assert client.files() == [b"content"]
    assert sum(path.startswith("targets/") for path in asked) == 2


def test_a_new_content_takes_the_place_of_the_old_one(client, repository):
    assert client.download(FILE) == 0
    repository.add_target(FILE, b"new content")
    repository.publish_all("targets")
    assert client.download(FILE) == 0
    assert client.files() == [b"new content"]


def test_a_file_that_nobody_signed_is_not_there(client):
    assert client.download("nonexistent artifact") == 1
    assert "not_signed" in client.said
    assert client.trusted()["targets"] == 2  # the metadata was refreshed all the same


def test_a_file_that_does_not_end_is_left_where_it_should_have_ended(client, repository):
    served = []

    def endless(handler):
        begin(handler, length=10**12)
        while True:
            served.append(handler.wfile.write(b"x" * 16_384))

    with serving(endless) as url:
        assert client.download(FILE, url) == 1
    assert "trust_too_large" in client.said
    assert client.files() == []


@pytest.mark.parametrize("bootstrap", [b"", b"{}", None], ids=["empty", "no root", "unsigned"])
def test_a_bad_bootstrap_asks_nobody_anything(client, repository, asked, bootstrap):
    if bootstrap is None:
        repository.signers["root"] = repository.signers["snapshot"]
        bootstrap = repository.sign("root")
    client.init(bootstrap)
    assert client.refresh() == 1
    assert asked == []


def test_the_clock_decides_what_has_expired(client, repository):
    if shutil.which("faketime") is None:
        absent("a clock that is wrong: faketime is not installed")
    now = repository.now
    assert client.refresh(at=now - 3650 * DAY) == 0, client.said  # nothing has expired then
    assert client.refresh(at=now + 3650 * DAY) == 1
    assert "trust_expired" in client.said
    assert client.refresh() == 0
