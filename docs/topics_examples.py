"""One example of everything that `docs/topics.md` shows, built from the models themselves.

The story: camera cam-01 is on probation with digits 1.1.0, having run 1.0.0 before.
"""  # noqa: INP001 - beside the text that it is for, not in a package

from __future__ import annotations

import json
from typing import Final

from wire import messages as m
from wire.alerts import ControllerAlert, ToldAlert
from wire.lifecycle import Code, Outcome, UpdateState
from wire.manifest import (
    BASELINE,
    GOLDEN,
    MODEL,
    PARITY,
    ArtifactEntry,
    Budgets,
    Lineage,
    Manifest,
    TensorSpec,
    digest_of,
)
from wire.performance import Feedback, GivenLabel, PerformanceTelemetry, RefusedLabels
from wire.shadow import ShadowClass, ShadowTelemetry
from wire.windows import WindowTelemetry

BOOT: Final = "5f0c2b9d41e7a836"
NOW_UNIX_MS: Final = 1_767_225_600_000


def _digest(of: str) -> str:
    return digest_of(of.encode())


_OLD: Final = m.Release(version="1.0.0", manifest=_digest("digits 1.0.0"))
_NEW: Final = m.Release(version="1.1.0", manifest=_digest("digits 1.1.0"))

PAYLOADS: Final[dict[str, m.Message]] = {
    "desired": m.Desired(
        device="cam-01",
        generation=7,
        models=(
            m.DesiredModel(
                name="digits",
                version=_NEW.version,
                manifest=_NEW.manifest,
                index=_digest("index of digits 1.1.0"),
                rollout="r-12",
                probation=m.Probation(min_s=120, max_s=3600, min_inferences=50),
            ),
        ),
    ),
    "reported": m.Reported(
        boot=BOOT,
        seq=14,
        generation=7,
        models=(
            m.ReportedModel(
                name="digits",
                state=UpdateState.ON_PROBATION,
                active=_NEW,
                fallback=_OLD,
                target=_NEW,
                served=31,
            ),
            m.ReportedModel(
                name="faces",
                state=UpdateState.IDLE,
                active=m.Release(version="2.3.0", manifest=_digest("faces 2.3.0")),
                target=m.Release(version="2.4.0", manifest=_digest("faces 2.4.0")),
                outcome=Outcome.ROLLED_BACK,
                code=Code.ERROR_RATIO,
                detail="11 of 20 requests failed",
                served=9,
            ),
        ),
        quarantined=(m.QuarantinedBundle(manifest=_digest("faces 2.4.0"), code=Code.ERROR_RATIO),),
        inventory=m.Inventory(
            arch="aarch64",
            cores=4,
            memory_bytes=4_100_001_792,
            runtime="onnxruntime 1.23.2",
            max_opset=23,
            protections=("rlimits", "no_new_privs", "landlock", "seccomp", "memory_limit"),
        ),
    ),
    "presence": m.Presence(state="online", boot=BOOT, birth=3, agent="0.1.0"),
    "ack": m.Ack(
        stored=(
            m.StoredRange(boot=BOOT, first=40, last=42),
            m.StoredRange(boot="09be77d3c2a41f60", first=1207, last=1207),
        )
    ),
    "feedback": Feedback(
        model="digits",
        labels=(
            GivenLabel(id="frame-8812", label="3"),
            GivenLabel(id="batch-17", row=5, label="8", version=_NEW.version),
        ),
    ),
    "event/update": m.UpdateEvent(
        boot=BOOT,
        seq=40,
        at_unix_ms=NOW_UNIX_MS,
        generation=7,
        model="digits",
        manifest=_NEW.manifest,
        from_=UpdateState.SELF_TESTING,
        to=UpdateState.ON_PROBATION,
        code=Code.ACTIVATED,
    ),
    "event/gap": m.GapEvent(
        boot=BOOT,
        seq=44,
        lost_boot="09be77d3c2a41f60",
        first=1208,
        last=1391,
        count=180,
        ranges=(m.LostRange(first=1208, last=1385), m.LostRange(first=1390, last=1391)),
        reason=Code.RECORDS_DROPPED,
    ),
    "event/alarm": m.AlarmEvent(
        boot=BOOT,
        seq=43,
        at_unix_ms=NOW_UNIX_MS + 5_250,
        code=Code.DISK_FULL,
        detail="the disk of /var/lib/modelfleet/content is full",
    ),
    "event/chunks_missing": m.ChunksMissing(
        boot=BOOT, chunks=(_digest("chunk 12"), _digest("chunk 19"))
    ),
    "telemetry/inference": m.InferenceTelemetry(
        boot=BOOT,
        seq=41,
        start_unix_ms=NOW_UNIX_MS,
        duration_s=60.0,
        model="digits",
        version=_NEW.version,
        manifest=_NEW.manifest,
        request_count=590,
        row_count=588,
        error_count=m.ErrorCount(deadline=1, client=2),
        latency_ms=m.LatencyMs(p50=0.5012, p95=0.7943, p99=1.2589),
        latency_bins=(0,) * 32 + (4, 210, 190, 98, 40, 15, 12, 6, 4, 2, 3, 0, 0, 2, 1, 0, 0, 0, 1),
    ),
    "telemetry/window": WindowTelemetry(
        boot=BOOT,
        seq=46,
        start_unix_ms=NOW_UNIX_MS,
        duration_s=900.0,
        model="digits",
        version=_NEW.version,
        manifest=_NEW.manifest,
        row_count=588,
        first=63,
        columns=(
            (577, 3, 1, 1, 5, 0, 0, 0, 1),
            (60, 57, 61, 58, 62, 55, 59, 57, 61, 58),
            (452, 22, 14, 10, 10, 12, 8, 9, 11, 40, 0, 3),
        ),
        between=(12.93, 131.2, 104.7),
    ),
    "telemetry/performance": PerformanceTelemetry(
        boot=BOOT,
        seq=47,
        start_unix_ms=NOW_UNIX_MS,
        duration_s=900.0,
        model="digits",
        version=_NEW.version,
        manifest=_NEW.manifest,
        labelled_count=40,
        correct_count=38,
        confusion=(4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 34, 0, 0, 0, 0, 0, 0, 0, 2),
        scores=(0,) * 17 + (3, 6, 31),
        score_correct=(0,) * 17 + (2, 5, 31),
        score_sums=(0,) * 17 + (2.6213, 5.5601, 30.4172),
        refused=RefusedLabels(unknown_id=1),
    ),
    "telemetry/shadow": ShadowTelemetry(
        boot=BOOT,
        seq=48,
        start_unix_ms=NOW_UNIX_MS,
        duration_s=15.0,
        model="faces",
        version="2.4.0",
        manifest=_digest("faces 2.4.0"),
        active_manifest=_digest("faces 2.3.0"),
        rollout="r-13",
        sampled_count=32,
        dropped_count=1,
        row_count=31,
        agree_count=30,
        classes=(
            ShadowClass(label="known", row_count=24, disagree_count=1),
            ShadowClass(label="unknown", row_count=7, disagree_count=0),
        ),
        active_latency=(0,) * 46 + (22, 8, 1),
        shadow_latency=(0,) * 48 + (19, 9, 2, 1),
        active_pss_bytes=92_274_688,
        shadow_pss_bytes=81_788_928,
    ),
    "telemetry/vitals": m.VitalsTelemetry(
        boot=BOOT,
        seq=42,
        at_unix_ms=NOW_UNIX_MS + 60_000,
        uptime_s=86_465.5,
        cpu_ratio=0.071,
        memory_available_bytes=3_221_225_472,
        disk_free_bytes=21_474_836_480,
        supervisor_rss_bytes=48_234_496,
        runtime_rss_bytes=142_606_336,
        temperature_c=51.5,
        cpu_is_throttled=False,
        clock_is_synchronized=True,
        clock_error_ms=31.5,
    ),
    "controller/presence": m.ControllerPresence(
        state="online", boot="c41d08e2f7b6935a", birth=1, version="0.1.0"
    ),
    "controller/alert": ControllerAlert(
        status="firing",
        rule="device_offline",
        severity="warning",
        summary="cam-01 is offline, since 2026-01-01 00:00 UTC",
        count=1,
        since_unix_ms=NOW_UNIX_MS,
        alerts=(
            ToldAlert(
                subject="cam-01",
                device="cam-01",
                fingerprint="dab9ceb70c4201f3",
                text="cam-01 is offline",
            ),
        ),
    ),
}
"""Channel name, as in `wire.codec.PAYLOADS`, to a message."""


def _file(path: str, size: int, media_type: str) -> ArtifactEntry:
    return ArtifactEntry(path=path, sha256=_digest(path), bytes=size, media_type=media_type)


MANIFEST: Final = Manifest(
    name="digits",
    version="1.1.0",
    files=(
        _file(MODEL, 98_113, "application/onnx"),
        _file(GOLDEN, 21_046, "application/x-npz"),
        _file(BASELINE, 8_412, "application/json"),
        _file(PARITY, 1_107, "application/json"),
    ),
    inputs=(TensorSpec(name="X", datatype="FP32", shape=(-1, 64)),),
    outputs=(
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 10)),
    ),
    opset={"": 21, "ai.onnx.ml": 3},
    ir_version=10,
    ops=("LinearClassifier", "Normalizer"),
    minimum_runtime="1.18",
    budgets=Budgets(p99_ms=20, memory_mb=64),
    lineage=Lineage(
        data_sha256=_digest("digits.npz"),
        code_commit="8f3a1c77d2e94b50a6f1c3e8d7b2940516aa3e9c",
        parameters={"C": "0.1"},
        metrics={"accuracy": 0.9667},
    ),
)

INDEX: Final = json.dumps(
    {
        "v": 1,
        "files": {
            "manifest.json": [[_NEW.manifest, 1_702]],
            MODEL: [
                [_digest("chunk 1"), 41_020],
                [_digest("chunk 2"), 36_864],
                [_digest("chunk 3"), 20_229],
            ],
            GOLDEN: [[_digest(GOLDEN), 21_046]],
            BASELINE: [[_digest(BASELINE), 8_412]],
            PARITY: [[_digest(PARITY), 1_107]],
        },
    }
).encode()
