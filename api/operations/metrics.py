"""`/metrics`: the metrics of the node, in the format of Prometheus or OpenMetrics.

Counters are stored in the database and include all processes and machines. If several
web processes share a database, scrape one of them, or do not add up their values. Queue
lengths are queried at each scrape. If the database or the disk is unavailable, only the
metrics that do not need it are returned, including `fracture_node_ready`.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from api.auth.request_user import Viewer
from api.http.problems import UNAUTHENTICATED
from api.operations.health import OK, Check, states_of
from config.settings import ReceiverSettings, StorageSettings
from dicom_node.metrics.counters import INFINITE, METRIC_FAMILIES, MetricFamily
from dicom_node.queries import backlog
from dicom_node.queries.backlog import DestinationState, QueueDepth
from dicom_node.receiver.association_slots import count_open_associations, slots_folder
from dicom_node.storage.database import (
    Connection,
    DatabaseError,
    open_engine,
    reading,
)
from dicom_node.storage.records import Sample
from dicom_node.storage.run_folder import run_folder
from dicom_node.storage.spool import MB
from dicom_node.storage.tables import (
    UNFINISHED_INSTANCE,
    UNFINISHED_OR_PAUSED,
    DeliveryState,
    InstanceState,
)
from dicom_node.storage.tally import read
from inference.finding import ModelIdentity

OPEN_METRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True, eq=False)
class NodeCollector(Collector):
    """The collector of all metrics. `prometheus_client` calls it at each scrape.

    Attributes:
        storage: The settings of the storage.
        receiver: The settings of the receiver.
        destinations: The names of the destinations in the settings.
        checks: The checks of /readyz, by name.
        release: The version of this software.
        model: Returns the model of this process, or None if it is not loaded.
    """

    storage: StorageSettings
    receiver: ReceiverSettings
    destinations: Sequence[str]
    checks: Mapping[str, Check]
    release: str
    model: Callable[[], ModelIdentity | None]

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that registration does not query the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; without the database, only those that do not need it."""
        yield self._build()
        yield _gauge(
            "ready",
            "Whether each check of /readyz passes.",
            {name: state == OK for name, state in states_of(self.checks).items()},
            "check",
        )
        yield from self._machine_metrics()
        engine = open_engine(self.storage.database_url)
        try:
            with reading(engine) as connection:
                yield from self._database_metrics(connection)
        except DatabaseError:
            pass  # `fracture_node_ready` reports the failure
        finally:
            engine.dispose()

    def _build(self) -> Metric:
        model = self.model()
        family = GaugeMetricFamily(
            "fracture_node_build_info",
            "Version of this software, and the model of /predict.",
            labels=("version", "model", "model_version"),
        )
        known = (model.name, model.version) if model else ("", "")
        family.add_metric((self.release, *known), 1)
        return family

    def _machine_metrics(self) -> Iterator[Metric]:
        yield from self._disk_metrics()
        yield _gauge(
            "disk_required_bytes",
            "Free disk space below which instances are refused (min_free_mb).",
            self.storage.min_free_mb * MB,
        )
        yield _gauge(
            "associations_limit",
            "Maximum number of associations at a time (max_associations).",
            self.receiver.max_associations,
        )

    def _disk_metrics(self) -> Iterator[Metric]:
        """Yield the metrics that are read from the disk, except those that fail.

        If the disk has failed, `fracture_node_ready` reports it.
        """
        storage = self.storage
        with suppress(OSError):
            free = shutil.disk_usage(storage.directory).free
            yield _gauge("disk_free_bytes", "Free disk space for instances.", free)
        with suppress(OSError):
            yield _gauge(
                "associations_active",
                "Associations open at receivers of this machine.",
                count_open_associations(slots_folder(run_folder(storage))),
            )

    def _database_metrics(self, connection: Connection) -> Iterator[Metric]:
        names = self.destinations
        waiting = backlog.instances(connection)
        deliveries = backlog.deliveries(connection, names)
        samples = read(connection)
        yield from _waiting_instances(waiting)
        yield from _waiting_deliveries(deliveries, names)
        yield _outages(backlog.destination_states(connection, names))
        for family in METRIC_FAMILIES:
            mine = [each for each in samples if each.name == family.name]
            known = names if family.label == "destination" else family.values
            yield _with_zeros(family, mine, known)


def metrics_registry(collector: Collector) -> CollectorRegistry:
    """Return a registry that contains `collector`. Nothing is collected yet."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


async def _registry(request: Request) -> CollectorRegistry:
    registry: CollectorRegistry = request.app.state.metrics
    return registry


router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_description="Metrics in the text format of Prometheus or OpenMetrics",
    responses={200: {"content": {OPEN_METRICS: {}}}, 401: UNAUTHENTICATED},
)
def metrics(
    request: Request,
    _user: Viewer,
    registry: Annotated[CollectorRegistry, Depends(_registry)],
) -> Response:
    """Return the counters, queue lengths and durations of the node."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=content_type)


def _gauge(
    name: str, help_text: str, value: float | Mapping[str, float], label: str = ""
) -> Metric:
    family = GaugeMetricFamily(
        f"fracture_node_{name}", help_text, labels=(label,) if label else ()
    )
    values = value if isinstance(value, Mapping) else {"": value}
    for key, each in values.items():
        family.add_metric((key,) if label else (), float(each))
    return family


def _waiting_instances(waiting: list[QueueDepth]) -> Iterator[Metric]:
    counts = {each.state: each.count for each in waiting}
    since = [each.since for each in waiting if each.state in UNFINISHED_INSTANCE]
    yield _gauge(
        "analyses_waiting",
        "Instances with an unfinished analysis.",
        counts.get(InstanceState.RECEIVED, 0),
    )
    yield _gauge(
        "instances_failed",
        "Failed instances that were not retried.",
        counts.get(InstanceState.FAILED, 0),
    )
    yield _gauge(
        "oldest_undelivered_seconds",
        "Seconds since receipt of the oldest unfinished instance. 0 if there is none.",
        max((time.time() - each for each in since), default=0.0),
    )


def _waiting_deliveries(
    deliveries: list[QueueDepth], names: Sequence[str]
) -> Iterator[Metric]:
    kinds = {(name, state): 0 for name in names for state in UNFINISHED_OR_PAUSED}
    ages = dict.fromkeys(names, 0.0)
    failed = dict.fromkeys(names, 0)
    for each in deliveries:
        if each.state == DeliveryState.FAILED:
            failed[each.destination] = each.count
        else:
            kinds[each.destination, DeliveryState(each.state)] = each.count
            age = time.time() - each.since
            ages[each.destination] = max(ages.get(each.destination, 0.0), age)
    depth = GaugeMetricFamily(
        "fracture_node_deliveries_waiting",
        "Unfinished or paused deliveries.",
        labels=("destination", "state"),
    )
    for kind, count in kinds.items():
        depth.add_metric(kind, count)
    yield depth
    yield _gauge(
        "oldest_delivery_seconds",
        "Seconds since request of the oldest unfinished delivery. 0 if there is none.",
        ages,
        "destination",
    )
    help_text = "Deliveries that failed permanently, as the page Failures lists them."
    yield _gauge("deliveries_unmended", help_text, failed, "destination")


def _outages(states: Mapping[str, DestinationState]) -> Metric:
    now = time.time()
    seconds = {
        name: max((now - outage.since for outage in state.outages), default=0.0)
        for name, state in states.items()
    }
    return _gauge(
        "destination_failing_seconds",
        "Seconds since deliveries began to fail. 0 if the last attempt succeeded.",
        {name: max(each, 0.0) for name, each in seconds.items()},
        "destination",
    )


def _with_zeros(
    family: MetricFamily, samples: list[Sample], known: Iterable[str]
) -> Metric:
    """Return the metric of a family, with the value 0 for known labels without samples.

    Prometheus can only count the first increment of a counter if it has read the
    counter as 0 before.

    Args:
        family: The description of the metric.
        samples: The stored samples of the family.
        known: The label values that are returned even without samples.
    """
    labels = [family.label] if family.label else []
    values = [*known, *(each.label for each in samples)] if labels else [""]
    if not family.buckets:
        counter = CounterMetricFamily(family.name, family.help, labels=labels)
        for value in dict.fromkeys(values):
            times = sum(each.times for each in samples if each.label == value)
            counter.add_metric([value] if labels else [], times)
        return counter
    histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
    for value in dict.fromkeys(values):
        mine = [each for each in samples if each.label == value]
        seconds = sum(each.seconds for each in mine)
        key = [value] if labels else []
        histogram.add_metric(key, _cumulative(family, mine), seconds)
    return histogram


def _cumulative(family: MetricFamily, samples: list[Sample]) -> list[tuple[str, float]]:
    """Return the upper bound and the cumulative count of each bucket, in order.

    Samples of an earlier release may have other bounds than the family. These bounds
    are added to those of the family.
    """
    bounds = {*map(str, family.buckets), INFINITE, *(each.le for each in samples)}
    counted, buckets = 0, []
    for bound in sorted(bounds, key=float):
        counted += sum(each.times for each in samples if each.le == bound)
        buckets.append((bound, float(counted)))
    return buckets
