"""Records the connection tests that users request, and reads the newest tests."""

import sqlalchemy as sa

from dicom_node.storage.database import reading, writing
from dicom_node.storage.records import EchoRecord
from dicom_node.storage.tables import echo, read_records

MAX_RECENT = 20


def record_echo(  # noqa: PLR0913 - one for each column
    engine: sa.Engine,
    destination: str,
    user: str,
    *,
    at: float,
    seconds: float,
    comment: str,
) -> None:
    """Record the result of a connection test; EchoRecord describes the values."""
    values = {"destination": destination, "at": at, "who": user}
    values |= {"seconds": seconds, "comment": comment}
    with writing(engine) as connection:
        connection.execute(echo.insert(), values)


def recent_echoes(engine: sa.Engine, destination: str) -> list[EchoRecord]:
    """Return the last MAX_RECENT connection tests of a destination, newest first."""
    query = echo.select().where(echo.c.destination == destination)
    query = query.order_by(echo.c.id.desc()).limit(MAX_RECENT)
    with reading(engine) as connection:
        return read_records(EchoRecord, connection.execute(query))
