"""Data and helpers for tests of the journal."""

from collections.abc import Callable

import numpy as np
import sqlalchemy as sa
from dbos import DBOSConfig, DBOSPortableJSONSerializer

from config.destinations import DicomDestination
from dicom_node.instance import ReceivedInstance
from dicom_node.journal.analyses import AnalysisResult
from dicom_node.journal.deliveries import StoredResult
from dicom_node.journal.journal import Journal
from dicom_node.journal.work_queue import APPLICATION, VERSION
from dicom_node.outcome import Outcome, Verdict
from dicom_node.results.overlay_data import OverlayData
from inference.finding import Arrow, Finding, ModelIdentity, Thresholds
from tests.support.locations import locations

STORED = Outcome(Verdict.STORED, 0x0000, "")
RETRY = Outcome(Verdict.RETRY, 0xA700, "0xA700 Out of Resources")
BRIEFLY = Outcome(Verdict.RETRY_BRIEFLY, 0xA712, "0xA712 No Patient ID")
LOST = Outcome(Verdict.RETRY, None, "no association with PACS")
REFUSED = Outcome(Verdict.REFUSED, 0xC000, "0xC000 Cannot Understand")

ANSWER = AnalysisResult(
    Finding(
        probability=0.75,
        thresholds=Thresholds(0.5, 0.7),
        saliency=np.zeros((7, 7), np.float32),
        locations=(),
        model=ModelIdentity("test", "1", "0" * 64),
    ),
    picture_digest="p" * 64,
    identity_digest="i" * 64,
    results=[StoredResult("secondary_capture", "1.2", "2.25.1", "results/a.dcm")],
    drawing=OverlayData(
        picture_shape=(300, 200),
        locations=locations(Arrow((10.0, 20.0), (30.0, 40.0))),
        doubtful=0.25,
        definite=0.5,
        levels=np.array([[0, 255], [128, 7]], np.uint8),
    ),
)


Receive = Callable[..., ReceivedInstance]


def destination(name: str, **changes: object) -> DicomDestination:
    """Return the settings of a DICOM destination. Nothing listens at its port.

    `changes` are further settings.
    """
    return DicomDestination(
        name=name, type="dicom", ae_title="X", host="localhost", port=104, **changes
    )


def work(engine: sa.Engine) -> list[tuple[str, str]]:
    """Return the id and the status of each workflow of DBOS, sorted by id."""
    query = work_item(engine).select().order_by("workflow_uuid")
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.execute(query)]


def work_item(engine: sa.Engine) -> sa.TableClause:
    """Return the table of workflows of DBOS, with some of its columns."""
    schema = "dbos" if engine.dialect.name == "postgresql" else None
    names = "workflow_uuid", "status", "queue_name", "priority"
    return sa.table("workflow_status", *map(sa.column, names), schema=schema)


def state_of(journal: Journal, instance: ReceivedInstance) -> str:
    """Return the state of an instance, as stored in the journal."""
    row = journal.load(instance.id)
    assert row is not None
    return str(row.state)


def dbos_config(url: str) -> DBOSConfig:
    """Return a configuration of DBOS that can run the work of the node.

    The configuration of a worker also has a polling interval, the id of the worker as
    executor id, options of the engine, and another log level.

    Args:
        url: The URL of a migrated database.
    """
    return DBOSConfig(
        name=APPLICATION,
        system_database_url=url,
        application_version=VERSION,
        serializer=DBOSPortableJSONSerializer(),
        run_migrations=False,
        log_level="CRITICAL",
    )
