"""Many rows for tests of large tables, made by the database itself."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa


def numbered(count: int) -> sa.CTE:
    """Return a table of the numbers from 0 to `count` - 1, in the column n."""
    first = sa.select(sa.literal(0).label("n")).cte(recursive=True)
    return first.union_all(sa.select(first.c.n + 1).where(first.c.n < count - 1))


def digits(number: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    """Return a number of up to 7 digits as text, padded with zeros to 32 characters."""
    return "0" * 25 + sa.func.substr(
        sa.cast(number + 10_000_000, sa.Text), 2, type_=sa.Text
    )


def insert_for_each(
    connection: sa.Connection,
    numbers: sa.FromClause,
    table: sa.Table,
    values: Mapping[str, Any],
) -> None:
    """Insert a row for each number.

    The database makes the rows. Rows made in Python would take seconds longer.

    Args:
        connection: Connection with a transaction.
        numbers: The table of the numbers, or a part of it.
        table: The table for the rows.
        values: A constant or an expression of the numbers for each column.
    """
    typed = [
        value
        if isinstance(value, sa.ColumnElement)
        else sa.literal(value, table.c[key].type)
        for key, value in values.items()
    ]
    query = sa.select(*typed).select_from(numbers)
    connection.execute(table.insert().from_select([*values], query))
