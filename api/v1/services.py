"""Create and close the services that the routes of /api/v1 depend on."""

from functools import partial

from starlette.datastructures import State

from api.v1.change_stream import ChangeStream
from api.v1.image_cache import ImageCache
from api.v1.uploads import UploadStore
from config.settings import Settings
from dicom_node.journal.journal import Journal
from dicom_node.queries.changes import ChangeFeed
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine


def open_services(state: State, settings: Settings) -> None:
    """Create the services, and store them in the state of an application.

    Database connections and the decoder are opened later, on first use.

    Args:
        state: The state. Its attribute `ending` is a function that returns whether the
            process is shutting down. The attribute may be replaced later.
        settings: All settings of the node.
    """
    storage, receiver = settings.storage, settings.receiver
    engine = open_engine(storage.database_url)
    journal = Journal(
        engine,
        storage.directory,
        settings.destinations,
        quiet_s=settings.exam.quiet_s,
    )
    state.engine, state.journal = engine, journal
    state.storage, state.receiver = storage, receiver
    state.destinations = settings.destinations
    state.images = ImageCache(settings.worker)
    state.uploads = UploadStore(storage, receiver, journal, History(engine))

    def is_ending() -> bool:
        return bool(state.ending())

    state.changes = ChangeStream(partial(ChangeFeed, engine), is_ending)


def close_services(state: State) -> None:
    """Close the database connections and stop the decoder."""
    state.images.close()
    state.engine.dispose()
