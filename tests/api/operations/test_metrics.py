"""The metrics that /metrics reports, and those that the example alerts use."""

import asyncio
import errno
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
import yaml
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydicom.uid import generate_uid

import dicom_node.storage.database
from api.auth.access import Access
from api.auth.middleware import AuthMiddleware
from api.operations.health import Check, NotReadyError
from api.operations.metrics import NodeCollector, metrics_registry, router
from config.destinations import DicomDestination
from config.settings import Settings, load
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.journal.analyses import Conclusion
from dicom_node.journal.instance_state import FILES_REMOVED
from dicom_node.journal.journal import Journal
from dicom_node.metrics.counters import (
    DELIVERED,
    DELIVERY,
    METRIC_FAMILIES,
    STAGE,
    TURNAROUND,
    increment,
    observe,
)
from dicom_node.queries.failures import failed
from dicom_node.receiver.admission import Admission
from dicom_node.receiver.association_slots import AssociationSlot, slots_folder
from dicom_node.storage.database import open_engine
from dicom_node.storage.migration import migrate
from dicom_node.storage.records import Sample
from dicom_node.storage.run_folder import run_folder
from dicom_node.storage.tables import (
    InstanceState,
    delivered_object,
    delivery,
    instance,
)
from dicom_node.storage.tally import write
from inference.finding import ModelIdentity

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
MODEL = ModelIdentity("test", "1.2", "0" * 64)


def fail_check() -> None:
    raise NotReadyError("unavailable")


@dataclass
class Node:
    """The database of a node, and a client that scrapes /metrics."""

    settings: Settings
    engine: sa.Engine
    journal: Journal
    checks: Mapping[str, Check] = field(default_factory=dict)
    model: ModelIdentity | None = None

    def ask(self, accept: str = "") -> httpx.Response:
        app = FastAPI()
        access = Access(self.settings.api, self.settings.storage.directory)
        app.add_middleware(AuthMiddleware, access=access)
        collector = NodeCollector(
            self.settings.storage,
            self.settings.receiver,
            [each.name for each in self.settings.destinations],
            self.checks,
            "0.1",
            lambda: self.model,
        )
        app.state.metrics = metrics_registry(collector)
        app.include_router(router)
        transport = httpx.ASGITransport(app)

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as user:
                return await user.get("/metrics", headers={"accept": accept})

        return asyncio.run(ask())

    def scrape(self) -> "Scraped":
        response = self.ask()
        assert response.status_code == 200
        return Scraped(response.text)

    def count(self, *tallies: Sample) -> None:
        with self.engine.begin() as connection:
            write(connection, *tallies)

    def receive(self, age_s: float = 0) -> str:
        identity = uuid4().hex
        self.journal.record(
            ReceivedInstance(
                id=identity,
                path=self.settings.storage.directory / f"{identity}.dcm",
                header=InstanceHeader("1.2", generate_uid(), "1.2.840.10008.1.2.1"),
                content_digest=identity,
                size=1,
                calling_ae_title="MODALITY",
                calling_address="127.0.0.1",
                received_at=datetime.now(UTC) - timedelta(seconds=age_s),
            )
        )
        return identity


class Scraped:
    """The samples of a response, read by the parser of Prometheus.

    Calling the object returns the value of the only sample with a name and exactly the
    given labels. The name is given without its prefix fracture_node_.
    """

    def __init__(self, text: str) -> None:
        self.samples = [
            sample
            for metric in text_string_to_metric_families(text)
            for sample in metric.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        wanted = f"fracture_node_{name}"
        [value] = [
            each.value
            for each in self.samples
            if each.name == wanted and each.labels == labels
        ]
        return float(value)

    def labeled(self, name: str, label: str) -> bool:
        return any(s.name == name and label in s.labels for s in self.samples)

    def names(self) -> set[str]:
        return {each.name for each in self.samples}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    defaults = load(None, {})
    [pacs] = defaults.destinations
    assert isinstance(pacs, DicomDestination)
    backup = pacs.model_copy(update={"name": "backup"})
    storage = defaults.storage.model_copy(update={"directory": tmp_path})
    changes = {"storage": storage, "destinations": (pacs, backup)}
    settings = defaults.model_copy(update=changes)
    migrate(storage)
    engine = open_engine(storage.database_url)
    yield Node(settings, engine, Journal(engine, tmp_path, settings.destinations))
    engine.dispose()


def test_all_metrics_exist_with_zeros_from_the_start(node: Node) -> None:
    scraped = node.scrape()

    for family in METRIC_FAMILIES:
        suffix = "_count" if family.buckets else "_total"
        samples = [s for s in scraped.samples if s.name == family.name + suffix]
        known = {"pacs", "backup"} if family.label == "destination" else family.values
        assert {s.labels.get(family.label, "") for s in samples} == set(known or {""})
        assert {s.value for s in samples} == {0}
    for name in ("analyses_waiting", "instances_failed", "oldest_undelivered_seconds"):
        assert scraped(name) == 0
    assert scraped("deliveries_waiting", destination="pacs", state="queued") == 0
    assert scraped("oldest_delivery_seconds", destination="backup") == 0
    assert scraped("deliveries_unmended", destination="pacs") == 0


def test_buckets_of_a_histogram_are_cumulative(node: Node) -> None:
    node.count(*(observe(STAGE, s, "decode") for s in (0.3, 0.3, 7.0, 1000.0)))

    scraped = node.scrape()

    def bucket(le: str) -> float:
        return scraped("stage_seconds_bucket", stage="decode", le=le)

    assert [bucket(le) for le in ("0.25", "0.5", "5.0", "10.0", "300.0")] == [
        *(0, 2, 2, 3, 3)
    ]
    assert bucket("+Inf") == scraped("stage_seconds_count", stage="decode") == 4
    assert scraped("stage_seconds_sum", stage="decode") == pytest.approx(1007.6)
    assert scraped("stage_seconds_count", stage="encode") == 0


def test_removed_buckets_and_destinations_keep_their_counts(
    node: Node,
) -> None:
    node.count(
        increment(DELIVERED, "old"),
        observe(DELIVERY, 0.2, "old"),
        replace(observe(TURNAROUND, 3.0), le="3.0"),
        observe(TURNAROUND, 4.0),
    )

    scraped = node.scrape()

    assert scraped("deliveries_delivered_total", destination="old") == 1
    assert scraped("delivery_seconds_count", destination="old") == 1
    assert scraped("turnaround_seconds_bucket", le="3.0") == 1
    assert scraped("turnaround_seconds_bucket", le="5.0") == 2


def test_waiting_analyses_are_reported_with_their_age(node: Node) -> None:
    node.receive(age_s=60)
    node.receive(age_s=500)
    failed = node.receive(age_s=9999)
    broken = Conclusion(InstanceState.FAILED, "broken")
    node.journal.analyses.conclude(failed, 1, broken)

    scraped = node.scrape()

    assert scraped("analyses_waiting") == 2
    assert scraped("instances_failed") == 1
    assert scraped("oldest_undelivered_seconds") == pytest.approx(500, abs=30)
    assert scraped("instances_received_total") == 3
    assert scraped("analyses_failed_total", reason="program") == 1


def test_deliveries_are_reported_by_destination_and_state(node: Node) -> None:
    now = time.time()
    rows = [
        *(("pacs", "queued", now - 90, None), ("pacs", "queued", now - 30, None)),
        *(("pacs", "paused", now - 200, None), ("pacs", "delivered", 0.0, now)),
        *(("backup", "committing", now - 7, None), ("backup", "failed", 1.0, now)),
        *(("old", "queued", now - 5, None), ("pacs", "dropped", 0.0, now)),
    ]
    columns = ("destination", "state", "asked_at", "finished_at")
    common = {"run": 1, "attempts": 1, "next_at": 0.0}
    written = [
        {
            "instance_id": node.receive(),
            **common,
            **dict(zip(columns, row, strict=True)),
        }
        for row in rows
    ]
    with node.engine.begin() as connection:
        connection.execute(delivery.insert(), written)

    scraped = node.scrape()

    def waiting(destination: str, state: str) -> float:
        return scraped("deliveries_waiting", destination=destination, state=state)

    assert waiting("pacs", "queued") == 2
    assert waiting("pacs", "paused") == 1
    assert waiting("pacs", "committing") == 0
    assert waiting("backup", "committing") == 1
    assert waiting("old", "queued") == 1
    oldest = "oldest_delivery_seconds"
    assert scraped(oldest, destination="pacs") == pytest.approx(200, abs=30)
    assert scraped(oldest, destination="backup") == pytest.approx(7, abs=5)
    assert scraped("deliveries_unmended", destination="backup") == 1
    assert scraped("deliveries_unmended", destination="pacs") == 0


def test_failed_deliveries_are_counted_as_the_list_of_failures_has_them(
    node: Node,
) -> None:
    lost = f"The archive lost it. {FILES_REMOVED}"
    cases = [("refused", None), ("refused", 1.0), (lost, 1.0)]
    received = [node.receive() for _ in cases]
    with node.engine.begin() as connection:
        for instance_id, (comment, files_removed_at) in zip(
            received, cases, strict=True
        ):
            key = {"instance_id": instance_id, "destination": "pacs"}
            row = key | {"state": "failed", "run": 1, "attempts": 1, "next_at": 0.0}
            times = {"asked_at": 1.0, "finished_at": 2.0}
            connection.execute(delivery.insert(), row | times)
            sent = {"sop_instance_uid": "2.25.1", "state": "failed", "status": None}
            sent |= {"comment": comment, "attempts": 1, "brief_refusals": 0}
            connection.execute(delivered_object.insert(), key | sent)
            removed = instance.update().where(instance.c.id == instance_id)
            connection.execute(removed.values(files_removed_at=files_removed_at))

    counted = node.scrape()("deliveries_unmended", destination="pacs")

    assert counted == len(failed(node.engine, "pacs", None, 10)) == 2


def test_open_associations_and_free_disk_space_are_reported(node: Node) -> None:
    folder = slots_folder(run_folder(node.settings.storage))
    rules = Admission(node.settings.receiver, folder)
    slots = [rules.admit("A", "FRACTURE_AI", "192.0.2.1") for _ in range(3)]
    assert isinstance(slots[0], AssociationSlot)
    slots[0].release()

    scraped = node.scrape()

    assert scraped("associations_active") == 2
    assert scraped("associations_limit") == 50
    assert scraped("disk_free_bytes") > 0
    assert scraped("disk_required_bytes") == 1024e6


def test_readiness_and_build_are_reported(node: Node) -> None:
    node.checks = {"spool": lambda: None, "model": fail_check}

    loading = node.scrape()
    node.model = MODEL
    loaded = node.scrape()

    assert loading("ready", check="spool") == 1
    assert loading("ready", check="model") == 0
    assert loading("build_info", version="0.1", model="", model_version="") == 1
    named = {"model": "test", "model_version": "1.2"}
    assert loaded("build_info", version="0.1", **named) == 1


def test_metrics_without_the_database_are_still_reported(
    node: Node, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "node.sqlite") as file:
        file.execute("DROP TABLE tally")
    node.checks = {"database": fail_check}

    scraped = node.scrape()

    assert scraped("ready", check="database") == 0
    assert scraped("disk_required_bytes") > 0
    assert "fracture_node_instances_received_total" not in scraped.names()


def test_metrics_without_the_disk_are_still_reported(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    monkeypatch.setattr(Path, "glob", fail)  # of the folder of the associations
    node.checks = {"spool": fail_check}

    scraped = node.scrape()

    assert scraped("ready", check="spool") == 0
    assert scraped("disk_required_bytes") > 0
    assert scraped("instances_received_total") == 0
    read_from_disk = {
        "fracture_node_disk_free_bytes",
        "fracture_node_associations_active",
    }
    assert not read_from_disk & scraped.names()


def test_scrape_does_not_wait_for_a_writer_of_the_database(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_node.storage.database, "WAIT_S", 0)
    with sqlite3.connect(tmp_path / "node.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        scraped = node.scrape()
        other.execute("ROLLBACK")

    assert scraped("instances_received_total") == 0


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version="),
    ],
)
def test_response_has_the_requested_format(
    node: Node, accept: str, expected: str
) -> None:
    response = node.ask(accept)

    assert response.headers["content-type"].startswith(expected)
    assert response.text.startswith("# HELP fracture_node_")


def test_example_alerts_name_an_existing_section() -> None:
    header = (ROOT / "docs" / "alerts.example.yml").read_text().split("groups:")[0]
    words = " ".join(header.replace("#", " ").split())
    match = re.search(r'see "(.+)" in (\S+\.md)', words)

    assert match
    assert f"\n## {match[1]}\n" in (ROOT / match[2]).read_text()


def test_example_alerts_use_existing_metrics(node: Node) -> None:
    file = yaml.safe_load((ROOT / "docs" / "alerts.example.yml").read_text())
    rules = [rule for group in file["groups"] for rule in group["rules"]]
    node.checks = {"model": fail_check}
    scraped = node.scrape()

    named = set()
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        named |= set(re.findall(r"fracture_node_\w+", rule["expr"]))
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        for label in labels:
            found = re.findall(r"fracture_node_\w+", rule["expr"])
            assert any(scraped.labeled(name, label) for name in found)

    assert named
    assert named <= scraped.names()
