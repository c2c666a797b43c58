"""Services that the routes of /api/v1 share."""

from dataclasses import dataclass

import sqlalchemy as sa
from fastapi import HTTPException, status

from api.v1.image_cache import ImageCache
from config.destinations import Destination
from config.settings import Settings
from dicom_node.journal.journal import Journal
from dicom_node.journal.reader_feedback import Feedback
from dicom_node.queries.history import History
from dicom_node.queries.worklist import Worklist
from dicom_node.storage.database import open_engine


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """The services that the routes use.

    They are safe to share between threads, except `images`.

    Attributes:
        settings: All settings of the node.
        engine: Engine of the journal; connects on first use.
        journal: Records instances and requests for work.
        history: Counts and finds instances, and lists paused destinations.
        worklist: Finds and lists instances.
        feedback: Stores the opinions of readers.
        images: Decodes radiographs for display. Use it only from the event loop.
    """

    settings: Settings
    engine: sa.Engine
    journal: Journal
    history: History
    worklist: Worklist
    feedback: Feedback
    images: ImageCache

    def close(self) -> None:
        """Close the database connections and stop the decoding child process."""
        self.images.close()
        self.engine.dispose()

    def destination(self, name: str) -> Destination:
        """Return a destination of the settings.

        Raises:
            HTTPException: 404 if the settings have no destination of this name.
        """
        for each in self.settings.destinations:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.settings.destinations) or "none"
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            f"There is no such destination. Destinations in the settings: {known}.",
        )


def make_services(settings: Settings) -> Services:
    """Create the services. No connection or process is started yet."""
    engine = open_engine(settings.storage.database_url)
    folder = settings.storage.directory
    return Services(
        settings=settings,
        engine=engine,
        journal=Journal(engine, folder, settings.destinations),
        history=History(engine),
        worklist=Worklist(engine),
        feedback=Feedback(engine),
        images=ImageCache(settings.worker),
    )
