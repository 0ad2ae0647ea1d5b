"""The whole way of a run, from rows to a release."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from wire.bundle import read_bundle
from wire.errors import BundleError, ConfigError
from wire.manifest import MODEL, digest_of

from . import steps
from .cache import Entry
from .carding import write_card
from .checking import check_rows, count_rows, settle_schema
from .code import installed_libraries, read_code
from .judging import judge
from .making import BUNDLE_FILE, FACTS, Maker, estimator_file, read_facts
from .project import PARTS, Project
from .record import BundleRecord, CodeRecord, DataRecord, ReleaseRecord, RunRecord, SourceRecord
from .release import Fleet, next_minor
from .report import write_report
from .run import Listener, Options, Run, begin, going_on, hold_runs
from .snapshot import REFERENCE, Snapshot, Source, find_sources, read_snapshot, save_snapshot

LOG_FILE: Final = "train.log"
UNRELEASED: Final = "0.0.0"
"""The version of a bundle while nobody has asked for its release, where it is `auto`."""
MAX_CLASSES: Final = 256
"""That a record counts the rows of."""


def run_pipeline(
    project: Project, options: Options, listener: Listener, fleet: Fleet | None = None
) -> RunRecord:
    """Run a project, or what of it has not been run yet; return the record that was written.

    Args:
        project: What to run.
        options: How.
        listener: Is told of each step.
        fleet: Where releases go; only asked when one is wanted.

    Raises:
        ConfigError: The project is wrong, or another run is going on in its folder.
        BundleError: Rows, training or model are at fault.
        StorageError: The folder cannot be written to.
    """
    with hold_runs(project.runs) as cache:
        sources = find_sources(project)
        code = read_code(project.root)
        libraries = installed_libraries()
        record = RunRecord(
            id=_run_id(project, sources, code, libraries),
            state="running",
            model=project.model.name,
            kind=project.model.kind,
            started_unix_ms=0,
            params=project.train.params,
            seed=project.train.seed,
            code=code,
            libraries=libraries,
            trigger=options.trigger,
        )
        run = begin(project.runs, record, cache, listener, options)
        try:
            with going_on(run):
                _Work(project, run, sources, code, libraries, fleet).do()
        finally:
            write_report(run.folder, run.record)
    return run.record


@dataclass(frozen=True, slots=True)
class _Work:
    """The steps of one run, in their order."""

    project: Project
    run: Run
    sources: tuple[Source, ...]
    code: CodeRecord
    libraries: Mapping[str, str]
    fleet: Fleet | None

    def do(self) -> None:
        version = self._version()  # a controller that is not there is told before hours of work
        rows = self._snapshot()
        if self.run.is_over_after("snapshot"):
            return
        schema = self._check(rows)
        if self.run.is_over_after("statistics", "schema", "validate"):
            return
        assert self.run.record.data is not None  # noqa: S101 - the snapshot is there
        maker = Maker(
            project=self.project,
            rows=rows,
            feature_names=self.run.record.data.feature_names,
            schema=schema,
            code=self.code.sha256,
            libraries=self.libraries,
            version=version,
        )
        bundle = self._make(maker)
        if bundle is None:
            return
        path = bundle.folder / BUNDLE_FILE
        evaluation = judge(self.run, self.project, rows, path, self.libraries)
        if self.run.is_over_after("evaluate"):
            return
        self._note_bundle(write_card(self.run, self.project, bundle, evaluation))
        if not self.run.is_over_after("card"):
            self._release(version)

    @property
    def _wants_push(self) -> bool:
        asked = self.run.options.push
        return self.project.release.push if asked is None else asked

    @property
    def _wants_rollout(self) -> bool:
        asked = self.run.options.roll_out
        return self.project.rollout.auto if asked is None else asked

    def _version(self) -> str:
        if self.project.release.version != "auto":
            return self.project.release.version
        if (before := self.run.record.release) is not None:
            return before.version  # the same run is the same release, however often it is pushed
        if not self._wants_push:
            return UNRELEASED
        return next_minor(self._fleet().newest(self.project.model.name))

    def _fleet(self) -> Fleet:
        if self.fleet is None:
            raise ConfigError("there is no fleet to release to", code="no_fleet")
        return self.fleet

    def _snapshot(self) -> Entry:
        project, sources = self.project, self.sources

        def produce(folder: Path) -> None:
            snapshot = read_snapshot(project, sources)
            save_snapshot(snapshot, folder)
            facts = _describe(project, snapshot)
            facts["reference_sha256"] = digest_of((folder / f"{REFERENCE}.npz").read_bytes())
            (folder / FACTS).write_text(json.dumps(facts, sort_keys=True))

        reader = self.libraries.get("pyarrow", "")
        entry = self.run.step(
            "snapshot", steps.snapshot_inputs(project, sources, reader), produce, _tell_rows
        )
        facts = read_facts(entry.folder)
        for name in ("parts", "classes"):
            facts[name] = {part: facts[name][part] for part in PARTS if part in facts[name]}
        self.run.note(
            data=DataRecord(
                **facts,
                sources=tuple(
                    SourceRecord(path=source.path, sha256=source.sha256, row_count=count)
                    for source, count in zip(sources, facts.pop("source_rows"), strict=True)
                ),
            )
        )
        return entry

    def _check(self, rows: Entry) -> Entry | None:
        """Return what the schema came to, None where that was not asked for."""
        run, project = self.run, self.project
        statistics = count_rows(run, project, rows)
        if run.is_over_after("statistics"):
            return None
        schema = settle_schema(run, project, statistics)
        run.settle(_run_id(project, self.sources, self.code, self.libraries))
        if not run.is_over_after("schema"):
            check_rows(run, project, rows, schema)
        return schema

    def _make(self, maker: Maker) -> Entry | None:
        """Return the bundle, None where that was not asked for."""
        run, params = self.run, self.project.train.params
        if self.project.tune is not None:
            from .searching import search_parameters  # Optuna takes a second to import

            params = search_parameters(run, maker, self.project.tune)
        if run.is_over_after("tune"):
            return None
        recipe = maker.estimator(params, run.folder / LOG_FILE)
        estimator = run.follow(recipe, lambda folder: estimator_file(folder).name)
        if run.is_over_after("train"):
            return None
        entry = run.follow(maker.bundle(estimator), _tell_parity)
        self._note_bundle(entry)
        return None if run.is_over_after("convert") else entry

    def _note_bundle(self, entry: Entry) -> None:
        path = self.run.publish(entry.folder / BUNDLE_FILE, BUNDLE_FILE)
        opened = read_bundle(path)
        self.run.note(
            bundle=BundleRecord(
                manifest=opened.manifest_digest,
                version=opened.manifest.version,
                model=opened.manifest.file(MODEL).sha256,
                bytes=path.stat().st_size,
                **read_facts(entry.folder),
            ),
        )

    def _release(self, version: str) -> None:
        verdict = self.run.record.verdict
        if not self._wants_push:
            return
        if verdict is None or verdict.outcome != "bless":
            why = verdict.reasons[0] if verdict is not None else "nothing was evaluated"
            raise BundleError(
                f"the model is not released: {why}",
                code="not_blessed",
                hint="`fleet pipeline show` has all reasons; [evaluate] has the limits",
            )
        self.run.act("release", lambda: self._push(version))
        release = self.run.record.release
        assert release is not None  # noqa: S101 - pushed above
        if self.run.is_over_after("release") or not self._wants_rollout or not release.is_signed:
            return

        def start() -> str:
            model, plan = self.project.model.name, self.project.rollout
            rollout = self._fleet().start(model, version, plan)
            self.run.note(release=release.model_copy(update={"rollout": rollout}))
            return rollout

        self.run.act("rollout", start)

    def _push(self, version: str) -> str:
        fleet, name = self._fleet(), self.project.model.name
        pushed = fleet.push(self.run.folder / BUNDLE_FILE)
        release = self.run.record.release
        if release is None or release.manifest != pushed.manifest:
            now_ms = time.time_ns() // 1_000_000
            release = ReleaseRecord(
                version=version, manifest=pushed.manifest, pushed_unix_ms=now_ms
            )
        self.run.note(release=release.model_copy(update={"is_signed": pushed.is_signed}))
        said = [f"{name}:{version}"]
        if not fleet.keep(version, self.run.record):
            said.append("the record of the run that made it first is kept")
        if not pushed.is_signed:
            said.append("it waits for signatures")
        elif (alias := self.project.release.alias) is not None:
            fleet.name(name, alias, version, f"run {self.run.record.id}")
            said.append(f"{name}@{alias} means it now")
        return "; ".join(said)


def _run_id(
    project: Project,
    sources: tuple[Source, ...],
    code: CodeRecord,
    libraries: Mapping[str, str],
) -> str:
    katib = project.tune.katib if project.tune is not None else None
    return steps.run_id(
        project,
        sources,
        code=code.sha256,
        schema=_digest_at(project.root / project.data_schema.file),
        katib=_digest_at(project.root / katib) if katib is not None else "",
        libraries=dict(libraries),
    )


def _digest_at(path: Path) -> str:
    return digest_of(path.read_bytes()) if path.is_file() else ""


def _describe(project: Project, snapshot: Snapshot) -> dict[str, Any]:
    """Return what a record says of the rows."""
    table, is_classifier = snapshot.table, project.model.kind == "classifier"
    parts = {name: snapshot.part(name) for name in PARTS}
    classes: dict[str, dict[str, int]] = {PARTS[0]: {}}
    for name, part in parts.items() if is_classifier else ():
        assert part.labels is not None  # noqa: S101 - a snapshot has labels
        labels, counts = np.unique(part.labels, return_counts=True)
        classes[name] = {str(k): int(n) for k, n in zip(labels, counts, strict=True)}
    return {
        "sha256": snapshot.sha256,
        "row_count": len(table.values),
        "feature_names": table.feature_names,
        "label": project.data.label,
        "slices": project.data.slices,
        "parts": {name: len(part.values) for name, part in parts.items()},
        "classes": classes if len(classes[PARTS[0]]) <= MAX_CLASSES else {},
        "repeated_count": snapshot.repeated_count,
        "source_rows": [source.row_count for source in snapshot.sources],
    }


def _tell_rows(folder: Path) -> str:
    facts = read_facts(folder)
    parts = ", ".join(f"{facts['parts'][name]} {name}" for name in PARTS)
    repeated = facts["repeated_count"]
    once = f"; {repeated} captured rows are in two files, and taken once" if repeated else ""
    return f"{facts['row_count']} rows of {len(facts['feature_names'])} features: {parts}{once}"


def _tell_parity(folder: Path) -> str:
    return "; ".join(read_facts(folder)["worst"]) or BUNDLE_FILE
