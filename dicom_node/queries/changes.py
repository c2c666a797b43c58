"""Reports which instances have new events in the journal since the last call."""

import sqlalchemy as sa

from dicom_node.storage.database import reading
from dicom_node.storage.tables import event

MOST = 1000
# PostgreSQL assigns an id when a row is written, not when it is committed. So an event
# of a long transaction may become visible after events with higher ids. Each call of
# `poll` reads this many earlier ids again, to find such late events.
LATE = 200


class ChangeFeed:
    """A reader of new events in the journal.

    Only one thread at a time may use a feed.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Create a feed of events that are committed after the first `poll` call."""
        self._engine = engine
        self._last: int | None = None
        self._seen: set[int] = set()

    def poll(self) -> list[str]:
        """Return the ids of the instances with events committed since the last call.

        Each id is listed once, in the order of the first new event of each instance.
        The id of an examination is listed if its summary has a new event. The first
        call returns an empty list. One call reads at most MOST events. If there are
        more, the next call reads them.
        """
        begin = 0 if self._last is None else self._last - LATE
        newest = sa.select(sa.func.max(event.c.id))
        query = (
            sa.select(event.c.id, event.c.instance_id)
            .where(event.c.id > begin)
            .order_by(event.c.id)
        )
        with reading(self._engine) as connection:
            if self._last is None:
                self._last = connection.execute(newest).scalar() or 0
                query = query.where(event.c.id > self._last - LATE)
                self._seen = {row[0] for row in connection.execute(query)}
                return []
            rows = connection.execute(query.limit(MOST)).all()
        fresh = [row for row in rows if row.id not in self._seen]
        self._last = max([self._last, *(row.id for row in rows)])
        self._seen = {row.id for row in rows if row.id > self._last - LATE}
        return list(dict.fromkeys(row.instance_id for row in fresh if row.instance_id))
