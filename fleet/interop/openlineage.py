"""A release's lineage as OpenLineage events, for tools that draw or keep such graphs.

The shape is that of the specification 2-0-2 (https://openlineage.io/spec/2-0-2/OpenLineage.json,
`RunEvent`): runs of jobs with their input and output datasets. What is what here:

==============  =====================================================  ==============================
job             reads                                                  writes
==============  =====================================================  ==============================
`train`         `data/<sha256>`                                        `model-file/<sha256>`
`bundle`        `model-file/<sha256>`                                  `bundle/<manifest>`
`rollout`       `bundle/<manifest>`                                    `live/<device>/<model>`, each device
`serve`         `live/<device>/<model>`                                `windows/<device>/<manifest>`
`drift`         `windows/…`                                            `finding/<id>`
==============  =====================================================  ==============================

Datasets and jobs are in the namespace `modelfleet`. Ids of runs are UUIDs of version 5 of what
names the run here, so that the same lineage is the same graph, whenever it is exported. Facets of
the specification are used where they fit (`version`, `jobType`); the others begin with
`modelfleet_`. The specification wants a time of each event: of a run it is when it ended, else
when it began.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fleet.api.lineage_schemas import Lineage, LineageRollout, LiveSpan
from fleet.api.run_schemas import StoredRun
from wire.manifest import MODEL

NAMESPACE: Final = "modelfleet"
PRODUCER: Final = "https://pypi.org/project/modelfleet"
SPEC: Final = "https://openlineage.io/spec"
SCHEMA: Final = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
OWN: Final = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/BaseFacet"
"""What our own facets are held to: there is no published schema of them."""
IDS: Final = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)

Json = dict[str, Any]


def events(lineage: Lineage) -> list[Json]:
    """Return the events of a lineage, from the data to what was found of it in the field."""
    manifest = lineage.release.manifest
    found = []
    if lineage.run is not None:
        found.append(_trained(lineage, lineage.run))
    inputs = [_dataset(f"model-file/{digest}", digest) for digest in _models(lineage)]
    found.append(
        _event(
            ("bundle", manifest),
            lineage.release.created_unix_ms,
            inputs,
            [_bundle(lineage)],
            run_facets={
                "modelfleet_release": _own(
                    release=f"{lineage.release.model}:{lineage.release.version}",
                    aliases=lineage.release.aliases,
                    origin=lineage.origin.model_dump(mode="json") if lineage.origin else None,
                )
            },
        )
    )
    devices = sorted({span.device for span in lineage.spans})
    found += [_rolled_out(lineage, rollout, devices) for rollout in lineage.rollouts]
    found += _served(lineage)
    found += [
        _event(
            ("drift", str(finding.id)),
            finding.closed_unix_ms or finding.opened_unix_ms,
            [_windows(w.device, manifest) for w in lineage.windows],
            [_dataset(f"finding/{finding.id}", str(finding.id))],
            is_over=finding.closed_unix_ms is not None,
            run_facets={"modelfleet_finding": _own(**finding.model_dump(mode="json"))},
        )
        for finding in lineage.findings
    ]
    return found


def merged(lineages: Iterable[Lineage]) -> list[Json]:
    """Return the events of several lineages."""
    return [event for lineage in lineages for event in events(lineage)]


def _trained(lineage: Lineage, stored: StoredRun) -> Json:
    run = stored.run
    at = run.ended_unix_ms or run.started_unix_ms or stored.stored_unix_ms
    data = _dataset(
        f"data/{run.data.sha256}",
        run.data.sha256,
        modelfleet_data=_own(**run.data.model_dump(mode="json")),
    )
    return _event(
        ("train", f"{run.pipeline}/{run.run}"),
        at,
        [data],
        [_dataset(f"model-file/{digest}", digest) for digest in _models(lineage)],
        run_facets={
            "modelfleet_trigger": _own(**run.trigger.model_dump(mode="json")),
            "modelfleet_training": _own(
                parameters=dict(run.parameters),
                metrics=run.metrics,
                libraries=run.libraries,
                verdict=run.verdict.model_dump(mode="json") if run.verdict else None,
            ),
        },
        job_facets={"modelfleet_code": _own(**run.code.model_dump(mode="json"))},
    )


def _rolled_out(lineage: Lineage, rollout: LineageRollout, devices: Iterable[str]) -> Json:
    model = lineage.release.model
    return _event(
        ("rollout", rollout.id),
        rollout.ended_unix_ms or rollout.created_unix_ms,
        [_bundle(lineage)],
        [_dataset(f"live/{device}/{model}", lineage.release.manifest) for device in devices],
        is_over=rollout.ended_unix_ms is not None,
        run_facets={"modelfleet_rollout": _own(**rollout.model_dump(mode="json"))},
    )


def _served(lineage: Lineage) -> list[Json]:
    """Return one run for each span: its device served the release from its begin to its end."""
    asked = {windows.device: windows for windows in lineage.windows}
    found = []
    for span in lineage.spans:
        windows = asked.get(span.device)
        outputs = [_windows(span.device, span.manifest)] if windows is not None else []
        facets = {"modelfleet_live": _own(**span.model_dump(mode="json"))}
        if windows is not None:
            facets["modelfleet_windows"] = _own(**windows.model_dump(mode="json"))
        found.append(
            _event(
                ("serve", f"{span.device}/{span.model}/{span.manifest}/{span.id}"),
                span.until_unix_ms or span.since_unix_ms,
                [_dataset(f"live/{span.device}/{span.model}", span.manifest)],
                outputs,
                is_over=_is_over(span),
                run_facets=facets,
            )
        )
    return found


def _is_over(span: LiveSpan) -> bool:
    return span.until_unix_ms is not None


def _models(lineage: Lineage) -> list[str]:
    return [file.sha256 for file in lineage.files if file.path == MODEL]


def _bundle(lineage: Lineage) -> Json:
    manifest = lineage.release.manifest
    files = [file.model_dump(mode="json") for file in lineage.files]
    return _dataset(f"bundle/{manifest}", manifest, modelfleet_files=_own(files=files))


def _windows(device: str, manifest: str) -> Json:
    return _dataset(f"windows/{device}/{manifest}", manifest)


def _dataset(name: str, version: str, **facets: Json) -> Json:
    url = f"{SPEC}/facets/1-0-0/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
    standard = {"version": _facet(url, datasetVersion=version)}
    return {"namespace": NAMESPACE, "name": name, "facets": standard | facets}


def _event(
    key: tuple[str, str],
    at_unix_ms: int,
    inputs: list[Json],
    outputs: list[Json],
    *,
    is_over: bool = True,
    run_facets: Mapping[str, Json] | None = None,
    job_facets: Mapping[str, Json] | None = None,
) -> Json:
    job, name = key
    url = f"{SPEC}/facets/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"
    kind = "SERVICE" if job == "serve" else "BATCH"
    facets = {
        "jobType": _facet(url, processingType=kind, integration="MODELFLEET", jobType=job.upper())
    }
    return {
        "eventType": "COMPLETE" if is_over else "RUNNING",
        "eventTime": datetime.fromtimestamp(at_unix_ms / 1000, UTC).isoformat(),
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {
            "runId": str(uuid.uuid5(IDS, f"{job}/{name}")),
            "facets": dict(run_facets or {}),
        },
        "job": {
            "namespace": NAMESPACE,
            "name": f"{job}/{name}" if job in ("rollout", "serve") else job,
            "facets": facets | dict(job_facets or {}),
        },
        "inputs": inputs,
        "outputs": outputs,
    }


def _facet(schema_url: str, **fields: Any) -> Json:
    return {"_producer": PRODUCER, "_schemaURL": schema_url, **fields}


def _own(**fields: Any) -> Json:
    return _facet(OWN, **fields)
