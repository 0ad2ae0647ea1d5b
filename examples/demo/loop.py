"""The demo's second half: the world changes, and the fleet gets a model that knows it.

The project is `examples/digits-loop`. Its labelled rows are written by its own script, as people would
put them into its folder: they are no rows that devices captured. Everything else is `fleet pipeline`,
`fleet retrain` and what devices do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from claims_loop import MIN_LABELLED
from clients import Client
from content import bundle_facts
from evidence import MODEL
from inspector import Inspector, World, read_worlds, right_count
from processes import DemoError, wait_for
from pyarrow import parquet
from stage import WINDOW_S, Stage

PROJECT: Final = Path(__file__).resolve().parents[1] / "digits-loop"
FOLDER: Final = "digits-loop"
RUN_TIMEOUT_S: Final = 180


class Loop:
    """The loop's acts, in their order, and the evidence so far.

    Attributes:
        evidence: See `evidence.py`.
    """

    def __init__(
        self,
        stage: Stage,
        clients: Sequence[Client],
        addresses: Sequence[str],
        wait_until_served: Callable[[str], None],
    ) -> None:
        """Prepare nothing yet.

        Args:
            stage: The fleet.
            clients: The applications.
            addresses: Where each device answers.
            wait_until_served: Returns when all devices serve a version, and the applications had it.
        """
        self._stage = stage
        self._journal = stage.journal
        self._clients = clients
        self._addresses = addresses
        self._wait_until_served = wait_until_served
        self._folder = stage.fleet_dir / FOLDER
        self._relabelled = stage.fleet_dir / "relabelled.parquet"
        self._counted_s = 0.0
        self._inspector: Inspector | None = None
        self._before: World | None = None
        self._after: World | None = None
        self.evidence: dict[str, Any] = {
            "versions": {},
            "rows": {},
            "measured": {},
            "runs": {},
            "bundles": {},
            "events": [],
        }

    def begin(self) -> str:
        """Make the folder and its first model, and roll it out; return its version."""
        shutil.copytree(
            PROJECT, self._folder, ignore=shutil.ignore_patterns("data", "runs", "__pycache__")
        )
        traffic = self._stage.fleet_dir / "traffic.npz"
        self._pictures("traffic", "--output", str(traffic))
        self._before, self._after, unseen = read_worlds(traffic)
        self.evidence["rows"]["unseen"] = unseen
        self._ask(self._before)
        self._label("firm", "firm")
        self._stage.fleet("pipeline", "run", FOLDER, timeout_s=RUN_TIMEOUT_S)
        return self._roll_out("first", self._newest_run())

    def live_well(self) -> None:
        """Measure how right the answers are, and let the triggers watch."""
        assert self._before is not None
        self._inspector = Inspector(self._addresses, self._before, self._journal.now_s)
        self._inspector.start()
        self._measure("before")
        self._enough_windows()
        self._others_are_over()
        self.evidence["findings_before"] = self._stage.findings()
        self._stage.start_watcher(FOLDER)
        # Labels are counted by slots: those of this measurement must all be in older ones.
        wait_for("a new slot", lambda: time.monotonic() > self._counted_s + 2 * WINDOW_S)

    def come_loose(self) -> None:
        """Let every second picture sink by a pixel, and the labels of the first such rows slip by one."""
        assert self._after is not None
        assert self._inspector is not None
        self.evidence["changed_unix_ms"] = time.time_ns() // 1_000_000
        self._event("the mounts come loose")
        self._ask(self._after)
        self._inspector.look_at(self._after)
        self._label("loose, slipped", "loose", "--slipped")
        self._journal.say(
            "   people labelled pictures of loose mounts; the labels are off by a row"
        )
        self._pictures("loose", "--output", str(self._relabelled))
        self._measure("during")
        for args in (("drift", "list"), ("performance", MODEL, "--since", "10m")):
            self._journal.quote(self._stage.fleet(*args))

    def be_refused(self) -> None:
        """Wait until a trigger has started the pipeline, and the gate has refused its model."""
        assert self._after is not None
        self._wait_until_ended(1)
        # At once: the next run, after the cool-down, is to have these rows.
        self._relabelled.replace(self._folder / "data" / "loose.parquet")
        self._keep_rows("loose", "loose")
        self._journal.say("   somebody has looked, and puts the labels right")
        entry = self._entry(1)
        run = self._run("refused", entry["run"])
        self.evidence["refused"] = {
            "right_count": right_count(self._bundle(run["id"]), self._after),
            "asked_count": len(self._after.labels),
        }
        self._tell_verdict(run["id"], 3)

    def recover(self) -> str:
        """Wait for the next run and roll out the model that it blessed; return its version."""
        self._wait_until_ended(2)
        entry = self._entry(2)
        self._tell_verdict(entry["run"], 0)
        return self._roll_out("recovered", entry["run"])

    def look_back(self) -> None:
        """Measure again, and ask where the release came from."""
        self._measure("after")
        evidence, version = self.evidence, self.evidence["versions"]["recovered"]
        evidence["retraining"] = self._json("retrain", "status", FOLDER)
        evidence["releases"] = self._json("releases", MODEL)
        evidence["findings"] = self._json("drift", "list", "--since", "1h")
        evidence["alerts"] = self._json("alerts", "--all")
        evidence["lineage"] = self._json("lineage", f"{MODEL}:{version}")
        for args in (
            ("retrain", "status", FOLDER),
            ("performance", MODEL, "--since", "10m"),
            ("lineage", f"{MODEL}:{version}"),
        ):
            self._journal.quote(self._stage.fleet(*args), 20)
        self._stage.stop_watcher()
        self.stop()

    def stop(self) -> None:
        """End the inspector, whatever happened. Idempotent."""
        if self._inspector is not None and self._inspector.is_alive():
            self._inspector.stop()
            self.evidence["series"] = self._inspector.series

    # -- rows

    def _pictures(self, *args: str) -> None:
        self._journal.quote(self._stage.python(self._folder / "pictures.py", *args))

    def _label(self, name: str, *args: str) -> None:
        """Have labelled rows in the project's folder, and keep which pictures they are of."""
        self._pictures(*args)
        self._keep_rows(name, args[0])

    def _keep_rows(self, name: str, what: str) -> None:
        path = self._folder / "data" / f"{what}.parquet"
        self.evidence["rows"][name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "pictures": parquet.read_table(path, columns=["picture"])["picture"].to_pylist(),
        }

    def _ask(self, world: World) -> None:
        for client in self._clients:
            client.ask_from(world.traffic)

    # -- runs

    def _wait_until_ended(self, number: int) -> None:
        """Return when a run of the triggers has ended."""
        watcher = self._stage.watcher
        wait_for(
            f"run {number} of the triggers to end",
            lambda: self._has_ended(watcher.tail(), number),
            timeout_s=RUN_TIMEOUT_S,
            services=self._stage.services(),
        )

    def _entry(self, number: int) -> dict[str, Any]:
        """Return a run of the triggers that has ended, as `fleet retrain status` has it."""
        entries = self._json("retrain", "status", FOLDER)["entries"]
        entry = next(entry for entry in entries if entry["number"] == number)
        said = f"run {number}, started by {entry['kind']}: {entry['verdict']}"
        self._journal.say(f"   {said}")
        self._event(said, entry["ended_unix_ms"])
        return dict(entry)

    @staticmethod
    def _has_ended(said: str, number: int) -> bool:
        return any(
            line.startswith(f"run {number} ") and " ended: " in line for line in said.splitlines()
        )

    def _newest_run(self) -> str:
        return str(self._json("pipeline", "list", "-C", FOLDER)[0]["id"])

    def _run(self, role: str, run: str) -> dict[str, Any]:
        """Keep the record of a run, and what its bundle is by itself."""
        record = dict(self._json("pipeline", "show", run, "-C", FOLDER))
        self.evidence["runs"][role] = record
        self.evidence["bundles"][role] = bundle_facts(self._bundle(run))
        return record

    def _tell_verdict(self, run: str, code: int) -> None:
        self._journal.quote(
            self._stage.fleet("pipeline", "verdict", run, "-C", FOLDER, expect=(code,))
        )

    def _bundle(self, run: str) -> Path:
        return self._folder / "runs" / run / "model.bundle"

    def _roll_out(self, role: str, run: str) -> str:
        """Roll out what a run released, under its alias, and return its version."""
        release = self._run(role, run)["release"]
        if release is None:
            raise DemoError(f"run {run} released nothing")
        version = str(release["version"])
        self.evidence["versions"][role] = version
        self._stage.fleet(
            *("rollout", "start", f"{MODEL}@candidate", "--match", "site=lab"),
            *("--phases", "1,100%", "--soak", "1s", "--wait", "--alias", "champion"),
            *("--probation-min", "2s", "--min-inferences", "30"),
            name=f"rollout {version}",
        )
        self._wait_until_served(version)
        self._event(f"{version} everywhere")
        return version

    # -- what was seen

    def _measure(self, name: str) -> None:
        """Have unseen pictures answered and labelled, and keep what came of it here and there."""
        assert self._inspector is not None
        began_s = time.monotonic()
        found = {**self._inspector.measure(name), "at_s": self._journal.now_s()}
        role = "recovered" if name == "after" else "first"
        version = self.evidence["versions"][role]

        def told() -> dict[str, Any] | None:
            since_s = time.monotonic() - began_s + WINDOW_S
            path = f"/v1/models/{MODEL}/performance?version={version}&since_s={since_s:.1f}"
            (row,) = self._stage.api(path)["releases"]
            return row if row["labelled_count"] >= found["asked_count"] else None

        row = wait_for(f"{found['asked_count']} labels to be counted", told, timeout_s=40)
        self._counted_s = time.monotonic()
        accuracy = row["accuracy"]
        self.evidence["measured"][name] = {
            **found,
            "version": row["version"],
            "labelled_count": row["labelled_count"],
            "accuracy": accuracy,
        }
        self._journal.say(
            f"   accuracy {name}: {accuracy['value']:.1%} ({accuracy['low']:.1%} to"
            f" {accuracy['high']:.1%}, {row['labelled_count']} labels of pictures that no model saw)"
        )

    def _enough_windows(self) -> None:
        """Return when the windows of each device hold enough rows to judge the first release."""
        version = self.evidence["versions"]["first"]

        def looked_at() -> dict[str, int] | None:
            counts = {
                device: self._stage.drift(MODEL, version, device)["row_count"]
                for device in self._stage.devices()
            }
            return counts if min(counts.values()) >= MIN_LABELLED else None

        self.evidence["row_counts"] = wait_for("rows of each device in windows", looked_at)

    def _others_are_over(self) -> None:
        """Return when nothing is said any more about releases that were served before.

        A trigger would take that for a reason as well.
        """
        first = self.evidence["versions"]["first"]
        wait_for(
            "findings about other releases to be over",
            lambda: all(one["version"] == first for one in self._stage.findings()),
        )

    def _event(self, text: str, at_unix_ms: int | None = None) -> None:
        """Keep what happened now, or at another time."""
        ago_s = 0.0 if at_unix_ms is None else time.time() - at_unix_ms / 1000
        at_s = round(self._journal.now_s() - ago_s, 3)
        self.evidence["events"].append({"at_s": at_s, "text": text})

    def _json(self, *args: str) -> Any:
        return json.loads(self._stage.fleet(*args, "--json"))
