"""The part of the journal that says where the results of an instance stand.

A delivery is all results of one instance for one destination. Each asking for it is a
run; a run whose number is no longer the delivery's is stale. Whether an object arrived
is kept object by object, so that a second attempt sends only what is missing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from config.destinations import Destination, SenderDestination
from dicom_node.attempts import go_on, is_waiting, of_delivery
from dicom_node.database import upsert, writing
from dicom_node.events import note
from dicom_node.recipients import drop_others, is_negative, recipients_of
from dicom_node.results.forms import HEATMAP, NOTICE, forms
from dicom_node.settlement import is_current, results_in
from dicom_node.standing import keeps_files, lock_instance, settle_instance
from dicom_node.tables import (
    DeliveryState,
    commitment,
    delivered_object,
    delivery,
    paused_destination,
    result,
)
from dicom_node.work import WorkQueue

AGAIN = "send again"
"""What somebody asked for."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result object that lies encoded on disk.

    Attributes:
        form: "secondary_capture" and so on, by the name of its form.
        sop_class_uid: Its class.
        sop_instance_uid: Its UID.
        path: Of the file, below the storage directory.
    """

    form: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str


class Deliveries:
    """How results reach their destinations, in the journal."""

    def __init__(
        self,
        engine: sa.Engine,
        work: WorkQueue,
        destinations: Sequence[Destination],
    ) -> None:
        self._engine = engine
        self._work = work
        self._destinations = {each.name: each for each in destinations}

    @property
    def go_to_senders(self) -> bool:
        """Whether results go back to the sender of an instance."""
        destinations = self._destinations.values()
        return any(isinstance(each, SenderDestination) for each in destinations)

    def open(
        self,
        connection: sa.Connection,
        instance_id: str,
        results: Sequence[StoredResult],
    ) -> None:
        """Keep the results of an answer, in place of older ones, and deliver them."""
        recipients = recipients_of(connection, instance_id)
        for table in (result, delivered_object):
            connection.execute(table.delete().where(table.c.instance_id == instance_id))
        for each in results:
            values = {
                "sop_class_uid": each.sop_class_uid,
                "sop_instance_uid": each.sop_instance_uid,
                "kind": each.form,
                "path": each.path,
            }
            connection.execute(
                result.insert().values(instance_id=instance_id, **values)
            )
        self._send(connection, instance_id, recipients)

    def again(self, connection: sa.Connection, instance_id: str) -> None:
        """Ask for the delivery of all results of an instance, everywhere, anew."""
        self._send(connection, instance_id, recipients_of(connection, instance_id))

    def _send(
        self, connection: sa.Connection, instance_id: str, recipients: set[str]
    ) -> None:
        """Ask for deliveries; of negative answers only where they are wanted.

        Or where something is already: what an archive has of an earlier answer, or a
        notice, must not have the last word.
        """
        results = _results(connection, instance_id)
        negative, asked = is_negative(connection, instance_id), []
        for name, destination in self._destinations.items():
            wanted = {each.name for each in forms(destination)}
            uids = [r.sop_instance_uid for r in results if r.kind in wanted]
            is_told = destination.send_negative or name in recipients
            if uids and (is_told or not negative):
                self._ask(connection, instance_id, name, uids)
                asked.append(name)
        drop_others(connection, instance_id, asked)
        settle_instance(connection, instance_id)

    def are_outdated(self, connection: sa.Connection, instance_id: str) -> bool:
        """Tell whether destinations want other forms than those that were made.

        Their settings were changed. A heatmap is not made of every answer.
        """
        made = {each.kind for each in _results(connection, instance_id)}
        is_answer = NOTICE not in {name.partition("-")[0] for name in made}
        wanted = {
            form.name
            for destination in self._destinations.values()
            for form in forms(destination)
            if form.kind != HEATMAP and (form.kind != NOTICE) == is_answer
        }
        return bool(made) and not wanted <= made

    def send_again(self, instance_id: str, destination: str | None = None) -> bool:
        """Send all results of an instance again, whatever came of it before.

        Args:
            instance_id: Of the instance.
            destination: To this one only; None: to all that want them.

        Returns:
            False where there is nothing to send, yet or any more.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            results = _results(connection, instance_id)
            if not results or not keeps_files(connection, instance_id):
                return False
            if destination is None:
                note(connection, instance_id, AGAIN, "")
                self.again(connection, instance_id)
                return True
            wanted = {each.name for each in forms(self._destinations[destination])}
            uids = [r.sop_instance_uid for r in results if r.kind in wanted]
            if uids:
                note(connection, instance_id, AGAIN, destination)
                self._ask(connection, instance_id, destination, uids)
                settle_instance(connection, instance_id)
            return bool(uids)

    def retry(self, instance_id: str, destination: str) -> bool:
        """Ask anew for what has not arrived at one destination.

        Returns:
            False where the results were removed, their time being over.
        """
        with writing(self._engine) as connection:
            lock_instance(connection, instance_id)
            if not keeps_files(connection, instance_id):
                return False
            missing = sa.select(delivered_object.c.sop_instance_uid).where(
                of_delivery(delivered_object, instance_id, destination),
                delivered_object.c.state != DeliveryState.DELIVERED,
            )
            uids = connection.execute(missing).scalars().all()
            note(connection, instance_id, AGAIN, destination)
            self._ask(connection, instance_id, destination, uids)
            settle_instance(connection, instance_id)
        return True

    def try_now(self, instance_id: str, destination: str) -> bool:
        """Make the next attempt of a delivery at once.

        Returns:
            False if it does not wait any more.
        """
        mine = of_delivery(delivery, instance_id, destination)
        query = delivery.select().where(mine, is_waiting()).with_for_update()
        with writing(self._engine) as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                return False
            note(connection, instance_id, "try now", destination)
            go_on(connection, self._work, row, row.state, 0)
        return True

    def begin(
        self, instance_id: str, destination: str, run: int
    ) -> dict[str, str] | None:
        """Take up a delivery.

        Returns:
            Path below the storage directory of each object to be sent, by SOP Instance
            UID, none where all are stored; None for stale work and while the
            destination is paused.
        """
        mine = sa.and_(of_delivery(delivery, instance_id, destination), is_current(run))
        count = delivery.update().where(mine)
        with writing(self._engine) as connection:
            if self._is_paused(connection, destination):
                connection.execute(count.values(state=DeliveryState.PAUSED))
                return None
            attempts = delivery.c.attempts + 1
            if not connection.execute(count.values(attempts=attempts)).rowcount:
                return None
            return self._missing(connection, instance_id, destination)

    def pause(self, destination: str) -> None:
        """Hold back a destination's deliveries; those under way still finish."""
        values = {"name": destination, "at": time.time()}
        with writing(self._engine) as connection:
            upsert(connection, paused_destination, values, {"at": values["at"]})
            note(connection, None, "paused", destination)

    def resume(self, destination: str) -> None:
        """Let a destination's deliveries go on."""
        held = sa.select(delivery.c.instance_id).where(
            delivery.c.destination == destination,
            delivery.c.state == DeliveryState.PAUSED,
        )
        held = held.order_by(delivery.c.instance_id)  # two who lock never cross
        with writing(self._engine) as connection:
            named = paused_destination.c.name == destination
            connection.execute(paused_destination.delete().where(named))
            note(connection, None, "resumed", destination)
            for instance_id in connection.execute(held).scalars().all():
                lock_instance(connection, instance_id)
                missing = self._missing(connection, instance_id, destination)
                self._ask(connection, instance_id, destination, list(missing))

    def _ask(
        self,
        connection: sa.Connection,
        instance_id: str,
        destination: str,
        uids: Sequence[str],
    ) -> None:
        """Queue a new run that sends these objects.

        An archive that was asked to commit itself before this has no more say: objects
        are often sent again because it lost them.
        """
        now = time.time()
        fresh = {
            "state": DeliveryState.QUEUED,
            "attempts": 0,
            "asked_at": now,
            "next_at": now,
            "finished_at": None,
            "waits_for": None,
        }
        key = {"instance_id": instance_id, "destination": destination}
        again = {**fresh, "run": delivery.c.run + 1}
        row = upsert(connection, delivery, {**key, **fresh, "run": 1}, again)
        counters = {"attempts": 0, "brief_refusals": 0}
        said = {"status": None, "comment": ""}
        state = {"state": DeliveryState.QUEUED, **said, **counters}
        for uid in uids:
            values = {**key, "sop_instance_uid": uid, **state}
            upsert(connection, delivered_object, values, state)
        open_ = of_delivery(commitment, instance_id, destination)
        closing = commitment.update().where(open_, commitment.c.closed_at.is_(None))
        connection.execute(closing.values(closed_at=now))
        self._work.deliver(connection, (instance_id, destination), row.run)

    @staticmethod
    def _is_paused(connection: sa.Connection, destination: str) -> bool:
        query = paused_destination.select().where(
            paused_destination.c.name == destination
        )
        # Whoever resumes it meanwhile waits, and then finds what is held because of it.
        row = connection.execute(query.with_for_update(read=True)).first()
        return row is not None

    @staticmethod
    def _missing(
        connection: sa.Connection, instance_id: str, destination: str
    ) -> dict[str, str]:
        query = results_in(DeliveryState.QUEUED, instance_id, destination)
        return {row.sop_instance_uid: row.path for row in connection.execute(query)}


def _results(connection: sa.Connection, instance_id: str) -> Sequence[sa.Row[Any]]:
    query = result.select().where(result.c.instance_id == instance_id)
    return connection.execute(query).all()
