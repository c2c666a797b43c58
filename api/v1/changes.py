"""The route that streams the changes of instances."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import StreamingResponse

from api.auth.request_user import Viewer, request_user
from api.v1.change_stream import ChangeStream
from api.v1.responses import v1_router


async def _changes(request: Request) -> ChangeStream:
    changes: ChangeStream = request.app.state.changes
    return changes


router = v1_router("changes")


@router.get(
    "/changes",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
    response_description='Events with {"instances": ["id", …]}',
)
async def stream(
    request: Request, _user: Viewer, changes: Annotated[ChangeStream, Depends(_changes)]
) -> StreamingResponse:
    """Stream the ids of changed instances, after the event "begun".

    Changes before "begun" may be missing. Reload the worklist after each "begun", also
    after a reconnect.
    """
    events = changes.stream(request_user(request).is_current)
    headers = {
        # Close the connection with the stream, not after the keep-alive timeout.
        "Connection": "close",
        # By default, nginx collects a response until a buffer is full.
        "X-Accel-Buffering": "no",
    }
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
