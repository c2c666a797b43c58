"""Connection tests that users requested, and their results."""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from config.destinations import Destination
from dicom_node.delivery.dispatch import echo_destination
from dicom_node.outcome import Outcome, Verdict
from dicom_node.storage.database import reading, writing
from dicom_node.storage.tables import echo

SHOWN = 20


def run_echo(
    engine: sa.Engine, destination: Destination, who: str, *, calling_ae_title: str
) -> None:
    """Test the connection to all peers of a destination, and record the result.

    Args:
        engine: Engine of the journal.
        destination: A destination of the settings.
        who: Name of the user that requested the test.
        calling_ae_title: Our AE title.
    """
    began = time.time()
    asked = echo_destination(
        destination.name, destination, calling_ae_title=calling_ae_title
    )
    dead = {name: outcome for name, ask in asked if not _alive(outcome := ask())}
    comment = "; ".join(f"{name}: {outcome.comment}" for name, outcome in dead.items())
    values = {"destination": destination.name, "at": began, "who": who}
    values |= {"seconds": max(time.time() - began, 0.0), "comment": comment}
    with writing(engine) as connection:
        connection.execute(echo.insert(), values)


def recent_echoes(engine: sa.Engine, destination: str) -> Sequence[sa.Row[Any]]:
    """Return the results of the last tests, newest first."""
    query = echo.select().where(echo.c.destination == destination)
    with reading(engine) as connection:
        return connection.execute(query.order_by(echo.c.id.desc()).limit(SHOWN)).all()


def _alive(outcome: Outcome) -> bool:
    return outcome.verdict is Verdict.STORED
