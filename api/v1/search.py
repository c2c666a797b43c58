"""The query parameters of searches for images and for examinations."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, Query, Request

from api.auth.audit import audit_access
from api.v1.schemas import OperatingPoint, Text
from api.v1.serialization import seconds_of
from dicom_node.audit.event import AuditEventType
from dicom_node.queries.worklist import Order, SearchCriteria, Sorting

MOST_IDS = 100
LARGEST_PAGE = 200
LAST_PAGE = 100_000
SEARCH_PARAMETERS = ("q", "state", "answer", "since", "until", "sender", "destination")
"""A request counts as a search if one of these query parameters has a value.

The audit trail contains the names of these parameters, but not their values, which may
be patient data.
"""


async def _criteria(  # noqa: PLR0913, PLR0917 - one for each criterion
    q: Annotated[
        Text,
        Query(description="Words of the name, ID or accession number, or a whole UID"),
    ] = "",
    answer: Annotated[
        list[OperatingPoint], Query(description="Operating points reached")
    ] = [],  # noqa: B006
    since: Annotated[
        datetime | None, Query(description="Received at or after this time")
    ] = None,
    until: Annotated[
        datetime | None, Query(description="Received before this time")
    ] = None,
    sender: Annotated[Text, Query(description="Calling AE title")] = "",
    destination: Annotated[
        Text, Query(description="With a delivery to this destination")
    ] = "",
    id: Annotated[  # noqa: A002 - its name in the URL
        list[Text],
        Query(max_length=MOST_IDS, description="Only these, by the id of the node"),
    ] = [],  # noqa: B006
) -> SearchCriteria:
    return SearchCriteria(
        text=q,
        points=tuple(answer),
        since=None if since is None else seconds_of(since),
        until=None if until is None else seconds_of(until),
        sender=sender,
        destination=destination,
        ids=tuple(id),
    )


CriteriaDep = Annotated[SearchCriteria, Depends(_criteria)]
"""The criteria of a search, without the states."""


async def _sorting(
    sort: Annotated[Order, Query(description="The column to sort by")] = Order.RECEIVED,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Sorting:
    return Sorting(sort, order == "desc")


SortingDep = Annotated[Sorting, Depends(_sorting)]


class Paging(NamedTuple):
    """The number of a page, from 1, and the maximum number of entries on it."""

    number: int
    size: int


async def _paging(
    page: Annotated[int, Query(ge=1, le=LAST_PAGE)] = 1,
    size: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
) -> Paging:
    return Paging(page, size)


PagingDep = Annotated[Paging, Depends(_paging)]


async def audit_list(request: Request, path: str) -> None:
    """Audit that the user viewed a list.

    If the request has search parameters with a value, the search is audited, too.
    """
    if used := _search_parameters(request):
        about = f"{path} by {', '.join(used)}"
        await audit_access(request, AuditEventType.SEARCHED, about)
    await audit_access(request, AuditEventType.VIEWED, path)


def _search_parameters(request: Request) -> Sequence[str]:
    """Return the names of the search parameters that have a value."""
    given = request.query_params
    return [name for name in SEARCH_PARAMETERS if any(given.getlist(name))]
