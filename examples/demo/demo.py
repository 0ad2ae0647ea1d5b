"""The main job from end to end, on loopback, with the installed programs.

Three agents; a good model, a bad one that its canary rolls back, a better one, a camera that gets
dirty, a return by hand; then the world changes for all, and the fleet is trained again.
Nothing of the project is imported: the programs are driven by their commands, and the evidence comes
from outside them. Exits with 0 only if every claim of `checker.py` is proved.

    python examples/demo/demo.py --bin .venv/bin [--output FILE] [--broker mosquitto|nats]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import checker
import plot
from claims_drift import MIN_ROWS
from clients import Client, Question, questions_of
from content import bundle_facts, reassemble, unpack_chunks
from evidence import MODEL, RECORD_CHANNELS, digits, said
from loop import Loop
from observer import Observer
from processes import DemoError, Journal, wait_for
from stage import DEVICES, Stage

TRAIN = Path(__file__).resolve().parents[1] / "digits" / "train.py"
VERSIONS = {"good": "1.0.0", "bad": "2.0.0", "better": "3.0.0"}
MIN_ANSWERS = 30
DIRTY_DEVICE = "cam-03"
DIRTY_PIXELS = range(24, 32)
"""The fourth of eight rows of the picture. At half its brightness most answers are still right."""


class Demo:
    """One run: its stage, its observer, its clients, and the evidence so far."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.journal = stage.journal
        self.clients: list[Client] = []
        self.questions: dict[str, list[Question]] = {}
        self.observer: Observer | None = None
        self.loop: Loop | None = None
        self.evidence: dict[str, Any] = {
            "devices": list(DEVICES),
            "versions": VERSIONS,
            "bundles": {},
            "processes": {"settled": [], "exit_codes": {}, "left_over": []},
            "api": {"devices": {}, "rollouts": {}, "records": {}},
        }

    def run(self, broker: str | None) -> None:
        """Play all acts in order."""
        self.start(broker)
        self.build()
        self.roll_out("good", "a good model, in phases, while applications ask")
        self.roll_out("bad", "a model that passes every test and fails on live data", code=3)
        self.roll_out("better", "a better model")
        self.get_dirty()
        self.roll_back()
        self.close_the_loop()
        self.end()

    def start(self, broker: str | None) -> None:
        """Start broker, controller, observer and agents."""
        self.journal.step("start", "broker, controller and three agents")
        url = self.stage.start_controller(broker)
        self.evidence["broker"] = f"{broker} at {url}"
        self.observer = Observer(url, self.stage.certificates, self.journal.now_s)
        self.observer.start()
        self.stage.watch.start()
        for device in DEVICES:
            self.stage.add_device(device)
            self.stage.start_agent(device)
        self.stage.wait_until_live()
        self._settle("start")

    def build(self) -> None:
        """Train three variants of the model and convert each into a bundle."""
        self.journal.step("build", "train and convert three variants of a digits classifier")
        for variant, version, source, data in (
            ("v1", VERSIONS["good"], "model.skops", "digits.npz"),
            ("v2", VERSIONS["bad"], "model.onnx", "digits-clipped.npz"),
            ("v3", VERSIONS["better"], "model.skops", "digits.npz"),
        ):
            self.stage.python(TRAIN, "--variant", variant, "--output", variant)
            bundle = f"digits-{version}.bundle"
            self.stage.fleet(
                *("convert", f"{variant}/{source}", "--name", MODEL, "--version", version),
                *("--data", f"{variant}/{data}", "--output", bundle),
            )
            self.evidence["bundles"][version] = bundle_facts(self.stage.fleet_dir / bundle)
        data = self.stage.fleet_dir / "v1" / "digits.npz"
        self.questions["clean"] = questions_of(data)
        self.questions["dirty"] = questions_of(data, dirty=DIRTY_PIXELS)
        for device in DEVICES:
            for address in self.stage.addresses(device):
                client = Client(device, address, self.questions["clean"], self.journal.now_s)
                self.clients.append(client)
                client.start()

    def roll_out(self, role: str, title: str, code: int = 0) -> None:
        """Push a version and roll it out; wait until every device serves what it then should."""
        version = VERSIONS[role]
        self.journal.step(version, f"{MODEL} {version}: {title}")
        self.stage.fleet("push", f"digits-{version}.bundle")
        self.stage.fleet(
            *("rollout", "start", f"{MODEL}:{version}", "--match", "site=lab"),
            *("--phases", "1,50%,100%", "--soak", "2s", "--wait"),
            *("--probation-min", "2s", "--min-inferences", str(MIN_ANSWERS)),
            *("--min-requests", "20", "--error-ratio", "0.05"),
            name=f"rollout {version}",
            expect=(code,),
        )
        self.evidence["api"]["rollouts"][version] = self.stage.rollout(version)
        self._wait_until_served(version if code == 0 else VERSIONS["good"])
        self._settle(version)

    def get_dirty(self) -> None:
        """Let one camera get dirty, wait until the controller finds it, and clean it again."""
        self.journal.step("drift", f"{DIRTY_DEVICE} gets dirty: a row of its pixels comes darker")
        row_counts = {VERSIONS[role]: self._rows_looked_at(role) for role in ("good", "better")}
        report = self.stage.drift(MODEL, VERSIONS["better"], DIRTY_DEVICE)
        before = self._findings()
        known = {finding["id"] for finding in before}
        self.evidence["drift"] = {
            "device": DIRTY_DEVICE,
            "pixels": [f"X[{pixel}]" for pixel in DIRTY_PIXELS],
            "outputs": [column["name"] for column in report["columns"] if column["is_output"]],
            "row_counts": row_counts,
            "before": before,
            "dirty_unix_ms": time.time_ns() // 1_000_000,
        }
        self._ask_from("dirty")
        wait_for(
            f"{DIRTY_DEVICE} to be found dirty",
            lambda: any(finding["id"] not in known for finding in self.stage.findings()),
            timeout_s=60,
            services=self.stage.services(),
        )
        for args in (
            ("list",),
            ("show", MODEL, "--device", DIRTY_DEVICE, "--since", "10m"),
        ):
            self.journal.quote(self.stage.fleet("drift", *args))
        self._ask_from("clean")

    def roll_back(self) -> None:
        """Return every device by hand to what it served before."""
        self.journal.step("rollback", "back to what each device confirmed before, by hand")
        self.stage.fleet("rollback", MODEL, "--match", "site=lab", name="rollback")
        self._wait_until_served(VERSIONS["good"])
        self._settle("rollback")
        self.evidence["drift"]["after"] = self._findings()

    def close_the_loop(self) -> None:
        """Let the world change for all cameras, and the fleet train itself a model that knows it."""
        addresses = [self.stage.addresses(device)[0] for device in DEVICES]
        loop = Loop(self.stage, self.clients, addresses, self._wait_until_served)
        self.loop, self.evidence["loop"] = loop, loop.evidence
        self.journal.step(
            "pipeline", "a model by the pipeline, from rows in a folder to all cameras"
        )
        self._keep_release("first", loop.begin())
        self.journal.step("before", "labels of pictures that no model saw: how right are answers?")
        loop.live_well()
        self.journal.step("during", "the mounts come loose: every second picture sinks by a pixel")
        loop.come_loose()
        self.journal.step("refused", "a trigger trains again, and the gate refuses what came of it")
        loop.be_refused()
        self.journal.step("recovered", "the next run is blessed, and goes to all cameras")
        self._keep_release("recovered", loop.recover())
        self.journal.step(
            "after", "how right are answers now, and where does the release come from?"
        )
        loop.look_back()

    def end(self) -> None:
        """Stop asking, compare broker and API, end all programs and close the evidence."""
        self.journal.step("end", "compare broker, API and observer; end everything")
        for client in self.clients:
            client.stop()
        assert self.observer is not None
        processes, api = self.evidence["processes"], self.evidence["api"]
        api["devices"]["end"] = self.stage.devices()
        retained = self._retained()
        processes["exit_codes"] |= self.stage.stop_agents()
        processes["left_over"] = [list(child) for child in self.stage.watch.present()]
        api["records"] = self._records()
        self.observer.stop()
        processes["exit_codes"] |= self.stage.stop_controller()
        processes["children"] = self.stage.watch.seen()
        self.evidence["wire"] = {**self._wire(), "retained": retained}
        self.journal.end_step()

    def stop(self) -> None:
        """End clients and programs, whatever happened. Idempotent."""
        if self.loop is not None:
            self.loop.stop()
        for client in self.clients:
            client.stop()
        self.stage.stop_everything()

    def close_evidence(self) -> dict[str, Any]:
        """Return the evidence as it stands."""
        self.evidence["steps"] = self.journal.steps
        self.evidence["commands"] = self.journal.commands
        self.evidence["requests"] = {client.name: client.segments for client in self.clients}
        self.evidence["disconnects"] = self.observer.disconnects if self.observer else None
        return self.evidence

    def _settle(self, step: str) -> None:
        """Note processes and devices once every agent is down to one runtime."""
        look = wait_for(
            "one runtime per agent", lambda: self._one_runtime_each(step), timeout_s=40,
            services=self.stage.services(),
        )  # fmt: skip
        self.evidence["processes"]["settled"].append(look)
        self.evidence["api"]["devices"][step] = self.stage.devices()

    def _keep_release(self, role: str, version: str) -> None:
        """Note what the loop has released, as what was built by hand."""
        self.evidence["bundles"][version] = self.evidence["loop"]["bundles"][role]
        self._settle(version)

    def _ask_from(self, state: str) -> None:
        """Have the clients of the camera that gets dirty ask as it then sees."""
        for client in self.clients:
            if client.device == DIRTY_DEVICE:
                client.ask_from(self.questions[state])

    def _findings(self) -> list[Any]:
        """Return what has drifted so far, those findings that are over as well."""
        return list(json.loads(self.stage.fleet("drift", "list", "--json", "--since", "1h")))

    def _rows_looked_at(self, role: str) -> dict[str, int]:
        """Return the rows of each device in windows that came, once there are enough to judge."""

        def enough() -> dict[str, int] | None:
            counts = {
                device: self.stage.drift(MODEL, VERSIONS[role], device)["row_count"]
                for device in DEVICES
            }
            return counts if min(counts.values()) >= MIN_ROWS else None

        return wait_for(f"{MIN_ROWS} rows of each device in windows", enough, timeout_s=60)

    def _one_runtime_each(self, step: str) -> dict[str, Any] | None:
        look = self.stage.processes(step)
        return look if all(len(each) == 1 for each in look["runtimes"].values()) else None

    def _wait_until_served(self, version: str) -> None:
        """Return when each device has confirmed `version` and each client was answered by it."""

        def is_served() -> bool:
            for known in self.stage.devices().values():
                model = digits(known) or {}
                if (model.get("active_version"), model.get("state")) != (version, "idle"):
                    return False
            return all(self._answered_last_by(client, version) for client in self.clients)

        wait_for(
            f"every device to serve {version}", is_served, timeout_s=90,
            services=self.stage.services(),
        )  # fmt: skip

    @staticmethod
    def _answered_last_by(client: Client, version: str) -> bool:
        if not client.segments:
            return False
        last = client.segments[-1]
        return bool(last["version"] == version and last["count"] >= MIN_ANSWERS)

    def _retained(self) -> dict[str, Any]:
        """Return what a newcomer finds on the broker."""
        assert self.observer is not None
        files = self.stage.add_observer("latecomer")
        late = Observer(self.observer.url, files, self.journal.now_s, name="latecomer")
        late.start()
        wanted = {f"fleet/v1/device/{device}/reported" for device in DEVICES}
        try:
            wait_for("the retained states", lambda: wanted <= late.retained().keys())
            return late.retained()
        finally:
            late.stop()

    def _records(self) -> dict[str, Any]:
        """Return what the store holds, once it holds all that went over the wire.

        The agents have ended, so there is nothing more to come; what is still missing after the
        deadline is for the judge to find.
        """

        def fetched() -> dict[str, Any] | None:
            records = {device: self.stage.records(device) for device in DEVICES}
            return records if all(len(records[d]) >= len(sent(d)) for d in DEVICES) else None

        def sent(device: str) -> set[tuple[str, int]]:
            assert self.observer is not None
            seen = {"wire": {"messages": self.observer.messages()}}
            return {
                (one.body["boot"], one.body["seq"])
                for one in said(seen, *RECORD_CHANNELS, device=device)
            }

        try:
            return wait_for("every record in the store", fetched, timeout_s=15)
        except DemoError as exc:
            self.journal.say(f"   {exc}")
            return {device: self.stage.records(device) for device in DEVICES}

    def _wire(self) -> dict[str, Any]:
        """Return the observer's log, and the bundles put together from the chunks in it."""
        assert self.observer is not None
        messages = self.observer.messages()
        published = ((one.topic, one.payload) for one in self.observer.chunks())
        plain, chunks = unpack_chunks(published)
        content = {}
        for one in said({"wire": {"messages": messages}}, "desired"):
            model = digits(one.body)
            if model is not None and model["version"] not in content:
                content[model["version"]] = reassemble(model["index"], plain)
        return {"messages": messages, "chunks": chunks, "content": content}


def report(evidence: dict[str, Any]) -> bool:
    """Print what was proved and what was not; return whether everything was."""
    findings = checker.judge(evidence)
    print()
    for finding in findings:
        mark = "proved " if finding.is_proved else "FAILED "
        print(f"{mark} {finding.name.replace('_', ' ')}: {finding.sentence}")
    failed = sum(not finding.is_proved for finding in findings)
    print("\naccuracy on labels that no model saw:")
    for when, one in evidence["loop"]["measured"].items():
        found = one["accuracy"]
        print(
            f"    {when:<7}{found['value']:6.1%}   ({found['low']:.1%} to {found['high']:.1%},"
            f" {one['labelled_count']} labels, digits {one['version']})"
        )
    print(f"\n{len(findings) - failed} of {len(findings)} claims proved", flush=True)
    return failed == 0


def main() -> int:
    """Run the demo; return 0 if all claims are proved, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=Path, required=True, help="where fleet and fleet-agent are")
    parser.add_argument("--output", type=Path, default=Path("demo-run/demo.json"))
    parser.add_argument("--broker", choices=("mosquitto", "nats"), help="default: what is there")
    args = parser.parse_args()

    journal = Journal()
    work = Path(tempfile.mkdtemp(prefix="modelfleet-demo-"))
    journal.say(f"in {work}")
    demo = Demo(Stage(args.bin.resolve(), work, journal))
    is_good = False
    try:
        demo.run(args.broker)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(demo.close_evidence(), indent=1) + "\n")
        drawn = args.output.with_suffix(".png")
        plot.draw(demo.evidence["loop"], drawn)
        is_good = report(demo.evidence)
        journal.say(f"evidence: {args.output}, accuracy over time: {drawn}")
    except (DemoError, TimeoutError) as exc:
        print(f"\nthe demo stopped: {exc}", file=sys.stderr)
    finally:
        demo.stop()
        if is_good:
            shutil.rmtree(work)
        else:
            journal.say(f"kept for inspection: {work}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
