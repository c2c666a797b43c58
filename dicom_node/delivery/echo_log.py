"""Runs the connection tests that users request, and stores the results."""

import time
from collections.abc import Sequence

import sqlalchemy as sa

from config.destinations import Destination
from dicom_node.delivery.clients import client_for
from dicom_node.outcome import Verdict
from dicom_node.storage.database import reading, writing
from dicom_node.storage.records import EchoRecord
from dicom_node.storage.tables import echo, read_records

MAX_RECENT = 20


def run_echo(
    engine: sa.Engine, destination: Destination, user: str, *, calling_ae_title: str
) -> None:
    """Test the connection to all peers of a destination, and record the result.

    Args:
        engine: Engine of the journal.
        destination: A destination of the settings.
        user: Name of the user that requested the test.
        calling_ae_title: Our AE title.
    """
    started = time.time()
    client = client_for(destination, calling_ae_title)
    tests = client.connection_tests(destination.name)
    failed = {}
    for name, test in tests:
        outcome = test()
        if outcome.verdict is not Verdict.STORED:
            failed[name] = outcome
    comment = "; ".join(
        f"{name}: {outcome.comment}" for name, outcome in failed.items()
    )
    values = {"destination": destination.name, "at": started, "who": user}
    values |= {"seconds": max(time.time() - started, 0.0), "comment": comment}
    with writing(engine) as connection:
        connection.execute(echo.insert(), values)


def recent_echoes(engine: sa.Engine, destination: str) -> Sequence[EchoRecord]:
    """Return the last MAX_RECENT tests of a destination, newest first."""
    query = echo.select().where(echo.c.destination == destination)
    query = query.order_by(echo.c.id.desc()).limit(MAX_RECENT)
    with reading(engine) as connection:
        return read_records(EchoRecord, connection.execute(query))
