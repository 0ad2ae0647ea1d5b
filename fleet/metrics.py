"""What Prometheus scrapes from the controller: counts since its start, and how the fleet stands now.

Names follow Prometheus' rules: base units, `_total` for what only grows. Labels hold nothing that a
device can make up, so that a hostile one cannot fill the memory with series: an unknown release or
code counts as `other`.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from fleet.core.performance import of_record
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire import codec
from wire import messages as m
from wire.latency import buckets_s, merged, padded
from wire.lifecycle import Code
from wire.performance import PerformanceTelemetry

from .version import VERSION

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
OTHER: Final = "other"
KNOWN_CODES: Final = frozenset(str(code) for code in Code)
CHANNELS: Final = {kind: channel for channel, kind in codec.PAYLOADS.items()}


class _Latency(Collector):
    """Latency on devices, in the bins of `wire.latency`, which devices have counted already."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[int, ...]] = {}

    def add(self, labels: tuple[str, str], bins: Sequence[int]) -> None:
        """Add the bins of a record; an older agent's has none."""
        # One assignment of a new tuple: a scrape in another thread sees it whole.
        self._counts[labels] = merged(self._counts.get(labels, ()), padded(bins))

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "modelfleet_inference_latency_seconds",
            "From whole request to whole answer on devices, client errors left out.",
            labels=("model", "version"),
        )
        for labels, counts in sorted(self._counts.copy().items()):
            buckets, total_s = buckets_s(counts)
            family.add_metric(labels, buckets, total_s)
        yield family


class Metrics:
    """The controller's counts; written by its loop's thread, read by the API's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._names: dict[str, tuple[str, str]] = {}
        ProcessCollector(registry=self.registry)
        self._records = self._counter("records_stored", "Records stored, each once.", "channel")
        release = ("model", "version")
        self._requests = self._counter(
            "inference_requests", "Requests that devices answered, failed ones included.", *release
        )
        self._rows = self._counter("inference_rows", "Rows that devices answered.", *release)
        self._errors = self._counter(
            "inference_errors", "Requests that failed on devices.", *release, "cause"
        )
        self._latency = _Latency()
        self.registry.register(self._latency)
        self._labelled = self._counter(
            "labelled_rows", "Rows of classes whose label came.", *release
        )
        self._correct = self._counter(
            "correct_rows", "Labelled rows whose answer was the label.", *release
        )
        self._refused = self._counter(
            "labels_refused", "Labels that devices refused.", *release, "cause"
        )
        self._alarms = self._counter("device_alarms", "Alarms that devices raised.", "code")
        self._steps = self._counter("update_steps", "Steps of updates on devices.", "to", "code")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"modelfleet_{name}", text, labels, registry=self.registry)

    def stored(self, tx: Tx, records: Iterable[m.Record]) -> None:
        """Count records that were stored just now; a release that the store does not know is `other`."""
        batch = list(records)
        names = self._names_of(tx, batch)
        answered: dict[tuple[str, str], list[m.InferenceTelemetry]] = {}
        for channel, count in Counts(CHANNELS[type(record)] for record in batch).items():
            self._records.labels(channel).inc(count)
        for record in batch:
            match record:
                case m.InferenceTelemetry():
                    labels = names.get(record.manifest, (OTHER, OTHER))
                    answered.setdefault(labels, []).append(record)
                case PerformanceTelemetry():
                    self._performance(record, names.get(record.manifest, (OTHER, OTHER)))
                case m.AlarmEvent(code=code):
                    self._alarms.labels(_known(code)).inc()
                case m.UpdateEvent(to=to, code=code):
                    self._steps.labels(str(to), _known(code)).inc()
                case _:
                    pass
        for labels, group in answered.items():
            self._inference(group, labels)

    def _names_of(self, tx: Tx, records: Iterable[m.Record]) -> dict[str, tuple[str, str]]:
        """Return model and version by manifest; a release never changes, so it is read once."""
        told = {
            r.manifest
            for r in records
            if isinstance(r, m.InferenceTelemetry | PerformanceTelemetry)
        }
        for manifest, release in tx.releases.by_manifests(told - self._names.keys()).items():
            self._names[manifest] = (release.model, release.version)
        return self._names

    def _inference(self, records: Sequence[m.InferenceTelemetry], labels: tuple[str, str]) -> None:
        self._requests.labels(*labels).inc(sum(record.request_count for record in records))
        self._rows.labels(*labels).inc(sum(record.row_count for record in records))
        errors: Counts[str] = Counts()
        for record in records:
            self._latency.add(labels, record.latency_bins)
            errors.update(record.error_count.model_dump())
        for cause, count in errors.items():
            self._errors.labels(*labels, cause).inc(count)

    def _performance(self, record: PerformanceTelemetry, labels: tuple[str, str]) -> None:
        sums = of_record(record)
        self._labelled.labels(*labels).inc(sums.labelled_count - sums.error_count)
        self._correct.labels(*labels).inc(sums.correct_count)
        for cause, count in asdict(sums.refused).items():
            self._refused.labels(*labels, cause).inc(count)


@dataclass(frozen=True, slots=True)
class Moment:
    """What is not in the store.

    Attributes:
        is_connected: Whether the broker can be reached.
        inbox_count: Messages that wait to be stored.
        dropped: Messages that were not stored, since the start, by reason.
    """

    is_connected: bool
    inbox_count: int
    dropped: Mapping[str, int]


class _Now(Collector):
    """How the fleet stands, read from the store at a scrape."""

    def __init__(self, tx: Tx, moment: Moment) -> None:
        self._tx = tx
        self._moment = moment

    def collect(self) -> Iterator[Metric]:
        moment = self._moment
        yield _gauge("build_info", "The program.", [((VERSION,), 1)], "version")
        yield _gauge(
            "broker_connected", "Whether the broker can be reached.", [((), moment.is_connected)]
        )
        yield _gauge(
            "inbox_messages", "Messages that wait to be stored.", [((), moment.inbox_count)]
        )
        dropped = CounterMetricFamily(
            "modelfleet_messages_dropped",
            "Messages of devices that were not stored.",
            labels=("reason",),
        )
        for reason, count in sorted(moment.dropped.items()):
            dropped.add_metric((reason,), count)
        yield dropped
        states = self._tx.devices.state_counts()
        yield _gauge(
            "devices",
            "Devices by the state of their connection.",
            [((state,), count) for state, count in sorted(states.items())],
            "state",
        )
        counts = self._tx.releases.device_counts(Selection())
        rows = [
            ((release.model, release.version), counts.pop(release.manifest))
            for release in self._tx.releases.by_model()
            if release.manifest in counts
        ]
        rows += [((OTHER, OTHER), sum(counts.values()))] if counts else []
        yield _gauge("release_devices", "Devices that serve a release.", rows, "model", "version")
        rollouts = self._tx.rollouts.state_counts()
        yield _gauge(
            "rollouts",
            "Rollouts by state.",
            [((state,), count) for state, count in sorted(rollouts.items())],
            "state",
        )
        alerts = self._tx.alerts.state_counts()
        yield _gauge(
            "alerts",
            "Alerts that are not over, by rule and state.",
            [(key, count) for key, count in sorted(alerts.items())],
            "rule",
            "state",
        )
        yield _gauge(
            "publications_waiting",
            "Retained messages that the broker does not have yet.",
            [((), self._tx.journal.unsent_count())],
        )


def render(metrics: Metrics, tx: Tx, moment: Moment) -> bytes:
    """Return all metrics in Prometheus' text format."""
    now = CollectorRegistry()
    now.register(_Now(tx, moment))
    return generate_latest(now) + generate_latest(metrics.registry)


def _gauge(
    name: str, text: str, rows: Iterable[tuple[tuple[str, ...], float]], *labels: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"modelfleet_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _known(code: str) -> str:
    return code if code in KNOWN_CODES else OTHER
