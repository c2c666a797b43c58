"""What has happened since one last asked, by the numbers of the journal's events."""

import sqlalchemy as sa

from dicom_node.database import reading
from dicom_node.tables import event

MOST = 1000
# PostgreSQL gives numbers when a row is written, not when it is committed: a
# transaction that takes longer comes to light behind others. Looked for that far back.
LATE = 200


class Feed:
    """Reads events as they come; for one thread at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        """Begin with what happens from the first question on."""
        self._engine = engine
        self._last: int | None = None
        self._seen: set[int] = set()

    def changed(self) -> list[str]:
        """List the instances to which something has happened since the last question.

        Each once, in the order of what happened first. Empty at the first question.
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
