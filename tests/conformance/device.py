"""A device's trust store beside a repository, and what it trusts after each refresh."""

import json
import time

from agent.adapters.state_sqlite import SqliteStateStore
from agent.adapters.trust import TrustStore
from wire.errors import ModelfleetError

DEVICE = "cam-01"
MODEL = "digits"


class Device:
    """One trust store on a real disk.

    Attributes:
        view: Of the last refresh that was whole.
        said: Code and words of the last one that was not.
    """

    def __init__(self, root, bootstrap):
        self.directory = root / "trust"
        self.state = root / "state.db"
        self.bootstrap = bootstrap
        self.view = self.said = None

    def open(self):
        marks = SqliteStateStore(self.state)
        return marks, TrustStore(self.directory, lambda: self.bootstrap, marks, device=DEVICE)

    def refresh(self, fetch, *, after_s=0, models=(MODEL,)):
        """Refresh by a new store, as after a start; return the code of what was wrong, or None."""
        marks, store = self.open()
        now_unix_ms = int((time.time() + after_s) * 1000)
        try:
            self.view = store.refresh(fetch, models, now_unix_ms=now_unix_ms)
        except ModelfleetError as exc:
            self.said = (exc.code, str(exc))
            return exc.code
        finally:
            marks.close()
        return None

    def load(self, models=(MODEL,)):
        """Return what is trusted without any network."""
        marks, store = self.open()
        try:
            return store.load(models)
        finally:
            marks.close()

    def versions(self):
        """Return the versions of the documents on disk, by role."""
        found = {}
        for path in self.directory.glob("*.json"):
            found[path.stem] = json.loads(path.read_bytes())["signed"]["version"]
        return found

    def lose(self, *names):
        """Lose cached files; without names all of them."""
        for path in self.directory.rglob("*.json"):
            if not names or path.name in names:
                path.unlink()
