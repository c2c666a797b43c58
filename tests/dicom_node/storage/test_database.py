"""The errors of a database that is not available."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from dicom_node.storage.database import UNAVAILABLE, open_engine
from tests.support.raw_association import until

pytestmark = [pytest.mark.postgresql, pytest.mark.integration]


@pytest.fixture(scope="module", params=[open_engine, sa.create_engine])
def postgresql_engine(
    request: pytest.FixtureRequest, postgresql: str
) -> Iterator[sa.Engine]:
    """Yield an engine for PostgreSQL, as the node opens it and as DBOS opens it."""
    engine = request.param(postgresql.replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def session(connection: sa.Connection) -> int:
    found: int = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
    return found


def test_a_server_that_accepts_only_reads_is_not_available(
    postgresql_engine: sa.Engine,
) -> None:
    write = sa.text("CREATE TABLE written (number INTEGER)")
    with postgresql_engine.connect() as connection:
        before = session(connection)
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        with pytest.raises(UNAVAILABLE) as refused:
            connection.execute(write)

    assert isinstance(refused.value, sa.exc.OperationalError)
    assert refused.value.connection_invalidated  # so DBOS repeats the call
    with postgresql_engine.connect() as connection:
        assert session(connection) != before


def test_a_server_that_ended_an_idle_session_is_not_available(
    postgresql_engine: sa.Engine,
) -> None:
    def is_ended(number: int) -> bool:
        activity = sa.text("SELECT 1 FROM pg_stat_activity WHERE pid = :number")
        with postgresql_engine.connect() as other:
            return other.execute(activity, {"number": number}).first() is None

    limit = sa.text("SET idle_in_transaction_session_timeout = 1")
    with postgresql_engine.connect() as connection:
        number = session(connection)
        connection.execute(limit)
        until(lambda: is_ended(number))
        with pytest.raises(UNAVAILABLE):
            session(connection)


def test_other_errors_of_a_server_are_not_replaced(
    postgresql_engine: sa.Engine,
) -> None:
    with postgresql_engine.connect() as connection:
        with pytest.raises(sa.exc.DataError):
            connection.execute(sa.text("SELECT 1 / 0"))
        with pytest.raises(sa.exc.InternalError):  # the transaction is aborted
            session(connection)
