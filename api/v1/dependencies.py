"""FastAPI dependencies of /api/v1: the journal, its queries, and the settings.

`create_app` stores the engine, the journal and the settings in the state of the
application. Dependencies that are not in this module are defined in the modules that
use them.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, HTTPException, Request, status

from config.destinations import Destination
from config.settings import ReceiverSettings, StorageSettings
from dicom_node.journal.journal import Journal
from dicom_node.journal.reader_feedback import Feedback
from dicom_node.queries.examinations import Examinations
from dicom_node.queries.history import History
from dicom_node.queries.instance_details import InstanceDetails, instance_details
from dicom_node.queries.worklist import Worklist
from dicom_node.storage.database import Engine

_ID = re.compile("[0-9a-f]{32}")


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


EngineDep = Annotated[Engine, Depends(_engine)]
"""The engine of the journal. Safe to share between threads."""


async def _journal(request: Request) -> Journal:
    journal: Journal = request.app.state.journal
    return journal


JournalDep = Annotated[Journal, Depends(_journal)]
"""The journal, which queues analyses and deliveries."""


async def _history(engine: EngineDep) -> History:
    return History(engine)


HistoryDep = Annotated[History, Depends(_history)]
"""The queries that count and find instances, and list paused destinations."""


async def _worklist(engine: EngineDep) -> Worklist:
    return Worklist(engine)


WorklistDep = Annotated[Worklist, Depends(_worklist)]
"""The queries that find and list instances."""


async def _examinations(engine: EngineDep) -> Examinations:
    return Examinations(engine)


ExaminationsDep = Annotated[Examinations, Depends(_examinations)]
"""The queries that find and list examinations."""


async def _feedback(engine: EngineDep) -> Feedback:
    return Feedback(engine)


FeedbackDep = Annotated[Feedback, Depends(_feedback)]
"""The store of the opinions of readers."""


async def _storage(request: Request) -> StorageSettings:
    storage: StorageSettings = request.app.state.storage
    return storage


StorageDep = Annotated[StorageSettings, Depends(_storage)]
"""The section [storage] of the settings."""


async def _receiver(request: Request) -> ReceiverSettings:
    receiver: ReceiverSettings = request.app.state.receiver
    return receiver


ReceiverDep = Annotated[ReceiverSettings, Depends(_receiver)]
"""The section [receiver] of the settings."""


async def _destinations(request: Request) -> tuple[Destination, ...]:
    destinations: tuple[Destination, ...] = request.app.state.destinations
    return destinations


DestinationsDep = Annotated[tuple[Destination, ...], Depends(_destinations)]
"""The destinations of the settings."""


def find_instance(engine: Engine, instance_id: str) -> InstanceDetails:
    """Return the details of an instance.

    Raises:
        HTTPException: 404 if the journal has no instance with this id, or the id is
            invalid.
    """
    is_valid = _ID.fullmatch(instance_id)
    details = instance_details(engine, instance_id) if is_valid else None
    if details is None:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            "There is no such instance. The id is wrong, or the instance was "
            "deleted after its retention time ([retention] in the settings).",
        )
    return details


def find_destination(destinations: Sequence[Destination], name: str) -> Destination:
    """Return the destination with the name `name`.

    Raises:
        HTTPException: 404 if there is no destination with this name.
    """
    for each in destinations:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in destinations) or "none"
    raise HTTPException(
        status.HTTP_404_NOT_FOUND,
        f"There is no such destination. Destinations in the settings: {known}.",
    )
