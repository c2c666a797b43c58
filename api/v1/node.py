"""The route for the state of the node."""

import shutil
from typing import Annotated

from fastapi import Depends, Request

from api.auth.request_user import Viewer
from api.operations.health import ReadinessDep, states_of
from api.v1.dependencies import DestinationsDep, EngineDep, HistoryDep, StorageDep
from api.v1.responses import v1_router
from api.v1.schemas import NodeResponse
from dicom_node.decoder.confinement import offered
from dicom_node.queries.backlog import destination_states
from dicom_node.storage.database import reading
from dicom_node.storage.spool import MB
from inference.finding import ModelIdentity


async def _model(request: Request) -> ModelIdentity | None:
    model: ModelIdentity | None = request.app.state.loaded_model()
    return model


ModelDep = Annotated[ModelIdentity | None, Depends(_model)]
"""The model of this process; None if it is not loaded."""


router = v1_router("figures")


@router.get("/node", response_description="The current state")
def node(  # noqa: PLR0913, PLR0917 - one for each dependency
    request: Request,
    _user: Viewer,
    storage: StorageDep,
    destinations: DestinationsDep,
    engine: EngineDep,
    history: HistoryDep,
    readiness: ReadinessDep,
    model: ModelDep,
) -> NodeResponse:
    """Return the current state of the node.

    The state consists of the results of the checks, the states of the destinations, the
    numbers of instances by state, the disk space, the versions, and the confinement of
    the decoding process.
    """
    confinement = offered()
    try:
        disk = shutil.disk_usage(storage.directory)
    except OSError:  # `checks` has the reason
        disk = None
    with reading(engine) as connection:
        names = [each.name for each in destinations]
        states = destination_states(connection, names)
    return NodeResponse(
        checks=states_of(readiness.checks),
        destinations={name: str(state) for name, state in states.items()},
        states=history.counts(),
        free_bytes=disk.free if disk else None,
        total_bytes=disk.total if disk else None,
        required_bytes=storage.min_free_mb * MB,
        version=request.app.version,
        model=f"{model.name} {model.version}" if model else "",
        decoding=str(confinement),
        confined=confinement.is_complete,
    )
