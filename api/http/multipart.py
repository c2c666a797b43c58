"""Write one uploaded file to disk, and enforce its size limit.

The form part with the name "file" is read as a file, even if its header has no file
name, or has only `filename*`, which RFC 7578 forbids. The file name is not kept,
because it may contain the name of a person.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import HTTPException, Request, status
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from api.http.body import BodyLimit
from api.http.form_parser import FIELD, FileFieldParser

LARGEST_FILE = 50_000_000
"""Maximum size of an upload in bytes."""

_TOO_LARGE = f"The file is larger than {LARGEST_FILE // 10**6} MB, the maximum."

# The additional bytes are for boundaries, part headers and other fields.
UPLOAD = BodyLimit(LARGEST_FILE + 2**16, _TOO_LARGE)
"""The body limit of a route that calls `received`."""


def file_form(description: str) -> dict[str, Any]:
    """Return the OpenAPI description of the form that `received` reads.

    Args:
        description: The description of the file, for users of the API.
    """
    file = {"type": "string", "format": "binary", "description": description}
    properties = {FIELD: file}
    schema = {"type": "object", "required": [FIELD], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


@asynccontextmanager
async def received(request: Request) -> AsyncIterator[Path]:
    """Read the file of a multipart form, and keep it on disk during the block.

    Args:
        request: A request. Its body must not have been read.

    Yields:
        The path of a temporary file with the upload. It is not empty. Use the path only
            in this process, and only during the block.

    Raises:
        HTTPException: 400 if the form is invalid, the file is missing or empty, or the
            client disconnects before the end of the body. 408 if the body comes too
            slowly. 413 if the body or the file is too large.
    """
    async with _form(request) as form:
        upload = form.get(FIELD)
        if not isinstance(upload, UploadFile):
            raise HTTPException(
                status.HTTP_400_BAD_REQUEST,
                f"The request has no file. Send it as the field '{FIELD}' of a "
                "multipart/form-data body.",
            )
        if not upload.size:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, "The file is empty.")
        if upload.size > LARGEST_FILE:
            raise HTTPException(status.HTTP_413_CONTENT_TOO_LARGE, _TOO_LARGE)
        yield await run_in_threadpool(_path_of, upload.file)


def _path_of(file: BinaryIO) -> Path:
    """Move a SpooledTemporaryFile to disk if it is in memory, and return its path.

    The file is in no folder, so that it does not remain if the process is killed. The
    path is that of the file descriptor. Therefore only this process can use it.
    """
    descriptor = file.fileno()  # moves the content to disk
    file.flush()
    return Path(f"/proc/self/fd/{descriptor}")


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Parse a form, and keep its files during the block.

    Yields:
        The form; an empty one if the body is not multipart/form-data.

    Raises:
        HTTPException: 400 if the form is invalid; other errors as in `received`.
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        yield FormData()
        return
    parser = FileFieldParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=8,
        max_part_size=2**16,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, error.message) from None
    try:
        yield form
    finally:
        await form.close()
